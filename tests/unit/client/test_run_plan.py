"""What a run says of itself."""

from seclea.client.run_plan import plan_run


def test_a_model_of_which_only_the_name_is_given_has_a_framework_that_a_portal_takes():
    plan = plan_run("first", {}, {}, [], "Booster")
    assert plan.model is not None
    assert (plan.model.name, plan.model.framework) == ("Booster", "unknown")
    assert plan.run.model == plan.model.uuid
    assert plan.run.metadata == {}
