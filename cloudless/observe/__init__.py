"""Logs, metrics and traces: set-up shared by every process. What is measured is declared beside the code that
moves it; this package only makes it visible.
"""
