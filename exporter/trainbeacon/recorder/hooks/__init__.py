"""PyTorch hooks: model, optimizer, backward pass, waits and compiler."""
