"""nbgrader's settings: `cd notebooks`, then its commands work as they are (see TEACHING.md)."""

c = get_config()  # noqa: F821  (nbgrader provides it)
c.CourseDirectory.course_id = "lora"
c.CourseDirectory.source_directory = "solutions"  # with solutions and hidden tests
c.CourseDirectory.release_directory = "exercises"  # made from them, for students
c.CourseDirectory.ignore = ["__pycache__", ".ipynb_checkpoints", "*.pyc"]
c.IncludeHeaderFooter.enabled = False
# Shown where a solution was; raising keeps an untouched exercise from passing its check.
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError()"}
c.ExecutePreprocessor.timeout = 300  # seconds a cell
