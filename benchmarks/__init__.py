"""Side-by-side measurements: each module measures us and a peer in the same run and ends with `RESULT {json}`."""
