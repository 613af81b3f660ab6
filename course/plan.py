"""The plan of the course: what each session needs, how long a session is, and which sessions a course of five meetings takes from."""

LENGTH = 120  # minutes of a session's lecture and discussion, and of a meeting of the short course
TITLES = {
    1: "Diffusion and DDIM",
    2: "Objective and bound",
    3: "Gradient and fixed points",
    4: "DPO and SPIN",
    5: "World and one round",
    6: "When does it pay?",
    7: "Recursion",
    8: "Collapse",
    9: "Judging and cost",
}
NEEDS = {2: (1,), 3: (2,), 4: (3,), 5: (1,), 6: (2, 5), 7: (1, 5), 8: (7,), 9: (5, 6)}  # session -> sessions that must come before
SHORT = {1: (1, 2), 2: (3, 4), 3: (5, 6), 4: (7, 8), 5: (9,)}  # meeting of the short course -> sessions whose slides it takes
SHORT_EXERCISES = {
    1: ("1.2", "1.4", "2.1"),
    2: ("3.3", "3.4", "4.2"),
    3: ("5.2", "6.1", "6.4"),
    4: ("7.3", "8.1", "8.4"),
    5: ("9.2", "9.4"),
}
