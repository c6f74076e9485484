"""Training configurations of the reference implementations, in the words of ours."""
