"""The networks: the autoencoder, the transformer with its text encoders, and the classifier for the evaluation."""
