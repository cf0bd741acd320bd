"""Tests, laid out as the packages are; what several of them use is in `tests.helpers`."""
