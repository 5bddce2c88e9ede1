"""What fermm withstands: programs that try to break it."""
