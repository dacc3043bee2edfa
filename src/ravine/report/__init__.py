"""A report: one HTML file about one run or several, that works offline.

`content` measures, `figures` says what plotly shall draw (as plain dicts), `page` writes the file.
"""
