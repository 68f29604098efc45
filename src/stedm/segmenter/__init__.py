"""The segmenter: network, loss, training on real and synthetic tiles, prediction of whole slides."""
