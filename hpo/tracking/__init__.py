"""`[study] track`: the trials of a search as runs of TensorBoard, MLflow or Weights & Biases."""
