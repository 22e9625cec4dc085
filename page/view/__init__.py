"""What a visitor sees: components, HTML, texts, examples."""
