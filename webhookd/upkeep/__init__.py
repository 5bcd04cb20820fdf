"""What is looked after: the budget, mail, holding, retention, the heartbeat."""
