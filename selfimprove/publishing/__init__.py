"""What is done with a finished round: its model card, a player in half precision, the hub, and old rollouts."""
