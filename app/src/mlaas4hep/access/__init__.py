"""Who is asking: tokens, and the people and robots behind them."""
