"""The pages that the commands write, one file each; `page` is what they are made of."""
