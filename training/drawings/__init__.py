"""The drawings of the training set, and the composition of scenes into images."""
