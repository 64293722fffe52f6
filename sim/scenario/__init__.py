"""Scenarios: files, values, timelines that become concrete faults, and saved runs."""

from sim.scenario.fields import ScenarioError
from sim.scenario.files import all_scenarios, library_names, load_scenario, read_scenario
from sim.scenario.model import (
    Cluster,
    Conditions,
    Core,
    Expectation,
    Failover,
    Liveness,
    Scenario,
    Step,
    Workload,
    timing_profile,
)
from sim.scenario.plan import Plan, Script
from sim.scenario.random_faults import RandomFaults
from sim.scenario.random_members import RandomMembers
from sim.scenario.random_upkeep import RandomUpkeep
from sim.scenario.replay import Replay
from sim.scenario.saved import SavedRun, load_run, save_run
from sim.scenario.selectors import SELECTORS

__all__ = [
    "SELECTORS",
    "Cluster",
    "Conditions",
    "Core",
    "Expectation",
    "Failover",
    "Liveness",
    "Plan",
    "RandomFaults",
    "RandomMembers",
    "RandomUpkeep",
    "Replay",
    "SavedRun",
    "Scenario",
    "ScenarioError",
    "Script",
    "Step",
    "Workload",
    "all_scenarios",
    "library_names",
    "load_run",
    "load_scenario",
    "read_scenario",
    "save_run",
    "timing_profile",
]
