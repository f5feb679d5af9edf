"""nbgrader's settings: `cd notebooks`, then its commands work as they are (see TEACHING.md)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

c = get_config()  # noqa: F821  (nbgrader provides it)
c.CourseDirectory.course_id = "gpt2-lora"
c.CourseDirectory.source_directory = "solutions"  # with solutions and hidden tests
c.CourseDirectory.release_directory = "exercises"  # made from them, for students
c.CourseDirectory.ignore = ["__pycache__", ".ipynb_checkpoints", "*.pyc"]
c.IncludeHeaderFooter.enabled = False
# Shown where a solution was; raising keeps an untouched exercise from passing its check.
c.ClearSolutions.code_stub = {
    "python": '# YOUR CODE HERE\nraise NotImplementedError("not solved yet: put your code here")'
}
c.ExecutePreprocessor.timeout = 300  # seconds a cell
c.GenerateFeedback.exporter_class = "feedback_page.FeedbackPage"  # formulae without a network
# Feedback shows the hidden tests, so that students see what their answer missed. Whoever wants to
# set the same exercises again may take the # away.
# c.GenerateFeedback.preprocessors = [
#     "nbgrader.preprocessors.GetGrades",
#     "nbgrader.preprocessors.ClearHiddenTests",
#     "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
# ]
