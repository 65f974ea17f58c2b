"""What losses say: spikes, overfitting, the first non-finite value."""
