"""Creates, lists, changes, rotates and revokes a key through the generated Python client."""

import os
import sys

import keyward_client
from keyward_client.models import KeyChange, KeyCreate, PlanSettings, Rotation

configuration = keyward_client.Configuration(
    host=os.environ["KEYWARD_URL"], access_token=os.environ["KEYWARD_ADMIN_TOKEN"]
)
with keyward_client.ApiClient(configuration) as client:
    keys = keyward_client.KeysApi(client)
    plans = keyward_client.PlansApi(client)
    plans.set_plan("python", plan_settings=PlanSettings(limits=["10/s"], credits=100))
    new = KeyCreate(
        name="python",
        owner="python",
        plan="python",
        scopes=["read"],
        allow_ip=["10.0.0.0/8"],
        metadata={"team": "core"},
        expires_in_s=3600,
    )
    made = keys.create_key(new)
    assert made.key.startswith("kw_live_") and made.metadata == {"team": "core"}, "created"
    assert made.expires_at > made.created_at and made.revoked_at is None, "expiry"
    assert [key.id for key in keys.list_keys(owner="python").keys] == [made.id], "listed"
    changed = keys.change_key(made.id, key_change=KeyChange(name="renamed", metadata={"team": None, "stage": "beta"}))
    assert (changed.name, changed.metadata) == ("renamed", {"stage": "beta"}), "changed"
    rotated = keys.rotate_key(made.id, rotation=Rotation(grace_s=60))
    assert rotated.key != made.key and len(rotated.secrets) == 2, "rotated"
    assert keys.revoke_key(made.id).state == "revoked", "revoked"
    try:
        keys.create_key(KeyCreate(name="python", plan="missing"))
        sys.exit("a key on a plan that does not exist was created")
    except keyward_client.ApiException as refused:
        assert refused.status == 422, refused.status
