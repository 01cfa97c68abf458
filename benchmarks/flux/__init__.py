"""Speed, memory and errors of FLUX.1-dev on a GPU, compared with diffusers."""
