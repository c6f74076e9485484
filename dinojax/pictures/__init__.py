"""What a frozen backbone sees, as pictures: the maths of them, and their drawing."""
