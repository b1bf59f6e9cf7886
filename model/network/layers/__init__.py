"""What every module of the network is made of: attention in its implementations, blocks, and the loss of a linear head."""
