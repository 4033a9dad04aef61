"""Vision-language models: image encoder, text encoder and class names as a classifier."""
