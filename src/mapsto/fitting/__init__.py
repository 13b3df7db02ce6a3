"""One fit, from the request to the saved folder: data, starting model, plan, training and scores; and the search for a plan."""
