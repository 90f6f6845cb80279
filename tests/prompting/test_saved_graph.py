from impasto.prompting.saved_graph import write_value


def test_a_value_is_written_into_both_forms_of_a_graph():
    prompt = {"3": {"class_type": "X", "inputs": {"profile": "random", "replay": ""}}}
    workflow = {"nodes": [{"id": 2, "widgets_values": ["a", "b"]}, {"id": 3, "widgets_values": ["random", ""]}]}
    write_value(prompt, workflow, "3", "replay", 1, "18446744073709551615")
    assert prompt["3"]["inputs"] == {"profile": "random", "replay": "18446744073709551615"}
    assert [node["widgets_values"] for node in workflow["nodes"]] == [["a", "b"], ["random", "18446744073709551615"]]


def test_a_graph_that_was_not_sent_or_lacks_the_node_is_left_alone():
    write_value(None, None, "3", "replay", 1, "5")
    prompt, workflow = {"1": {"inputs": {}}}, {"nodes": [{"id": 1}, {"id": 3, "widgets_values": []}]}
    write_value(prompt, workflow, "7:3", "replay", 1, "5")
    write_value(prompt, workflow, "3", "replay", 1, "5")
    assert prompt == {"1": {"inputs": {}}}
    assert workflow["nodes"][1] == {"id": 3, "widgets_values": []}
