"""report.json to cards, pages and figures; publishing is in train/publish.py."""
