"""The report of a backtest: one page for a browser without network, and its charts as files."""
