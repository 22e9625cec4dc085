"""What runs a network: ONNX Runtime or PyTorch, and the export from one to the other."""
