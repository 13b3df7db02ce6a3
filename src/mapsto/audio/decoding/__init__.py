"""Decode sound files of every format to samples of one channel, with facts and limits; damaged and foreign files are named."""
