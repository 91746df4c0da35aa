"""What trains: embeddings, the LoRA family, cross-attention keys and values, full weights."""
