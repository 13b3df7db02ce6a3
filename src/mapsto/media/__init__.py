"""Parts that pictures, videos and sounds share: cells that hold files, a cache of decoded values, decoding in a child process."""
