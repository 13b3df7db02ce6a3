"""Convolutions over waveforms, and over the tokens of a sound for their positions (wav2vec 2.0, Baevski et al. 2020)."""
