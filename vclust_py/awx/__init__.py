"""What AWX is given of this project: job templates with their surveys, and what these need, as one bundle to import.

surveys      the questions of each job template, from the one definition of a request's keys
bundle       organization, project, inventory, execution environment, job templates, workflow and schedule
rules        what AWX demands of a bundle, and silently drops where it is not so

`python -m vclust_py.awx` writes the bundle; docs/awx.md says how it is used.
"""
