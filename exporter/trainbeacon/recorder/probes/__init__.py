"""What is sampled inside the training process; each probe limits its own cost."""
