"The graph of stages, profiles, the plan and the command line."
