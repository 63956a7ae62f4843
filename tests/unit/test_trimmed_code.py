"""What the layer's build does to the code of other people's packages, beside that code as it is."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

import slim
from defer import DEFERRED, OWN, defer
from tests.conftest import ROOT

SITE = Path(boto3.__file__).parents[1]
SERVICES = ("cloudwatch", "dynamodb", "events", "sns", "sqs", "sts")
SOURCE = '''
"""A module."""
import json
import os.path
from decimal import Decimal, getcontext as context
from . import sibling
import re

_NUMBER = re.compile("[0-9]+")
_WORD = re.compile("[a-z]+")
LIMIT = Decimal(1)

def read(text, *, limit=LIMIT):
    """Reads."""
    if text:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return [_NUMBER.findall(each) for each in text]
    return None

class Reader:
    """Reads."""

    def __init__(self):
        self.made = [lambda: context().prec, sibling]
'''


def environment_of(path: object) -> dict[str, str]:
    """That of a process that finds modules there first, and no configuration of this machine's user."""
    ours = {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **ours, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def run(code: str, site: Path) -> str:
    """What a process says that finds a folder of packages before all others."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment_of(site), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The packages of this environment that the build changes, as it changes them."""
    folder = tmp_path_factory.mktemp("layer")

    def others(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder).name == "data" and "." not in name and name not in SERVICES]

    for package in ("aws_lambda_powertools", "boto3", "botocore", "urllib3"):
        shutil.copytree(SITE / package, folder / package, ignore=others)
    slim.main(folder, set(SERVICES))
    yield folder
    shutil.rmtree(folder)


def test_a_module_gets_later_what_it_has_given_up() -> None:
    """Just before each use, and not on the way to others; whoever asks for it from outside gets it too."""
    made = defer(SOURCE, "package/module.py", ["json", "decimal.getcontext", "package.sibling", "_NUMBER"])
    tree = ast.parse(made)
    assert [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)] == [
        "import os.path",
        "from decimal import Decimal",
        "import re",
    ]
    assert "_WORD = re.compile('[a-z]+')" in made
    assert (
        """
    if text:
        import json
        try:
            import json
            return json.loads(text)
        except json.JSONDecodeError:
            from package.module import _NUMBER
            return [_NUMBER.findall(each) for each in text]
    return None
"""
        in made
    )
    assert "        from decimal import getcontext as context\n        from package import sibling as sibling\n" in made
    names = "'json': lambda: __import__('json')", "'_NUMBER': lambda: re.compile('[0-9]+')"
    assert all(name in made for name in names)


def test_a_module_that_works_is_loaded(tmp_path: Path) -> None:
    """Its functions do what they did, and its names are found from outside."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/sibling.py").write_text("")
    unwanted = ["json", "decimal.getcontext", "package.sibling", "_NUMBER"]
    (tmp_path / "package/module.py").write_text(defer(SOURCE, "package/module.py", unwanted))
    code = (
        "import sys; from package import module\n"
        "print([name in sys.modules for name in ('json', 'package.sibling')])\n"
        "print(module.read('[1]'), module.read('a1b22'), module.read(''), module.Reader().made[0]())\n"
        "print(module.json.__name__, module.context.__name__, module.sibling.__name__, module._NUMBER.pattern)\n"
        "print(hasattr(module, 'missing'))"
    )
    assert run(code, tmp_path).splitlines() == [
        "[False, False]",
        "[1] [[], ['1'], [], ['2'], ['2']] None 28",
        "json getcontext package.sibling [0-9]+",
        "False",
    ]


@pytest.mark.parametrize(
    ("unwanted", "said"),
    [
        ("decimal", "needs at once: Decimal"),
        ("xml", "needs at once: xml"),
        ("re", "needs at once: re"),
        ("LIMIT", "needs at once: LIMIT"),
    ],
)
def test_what_a_module_needs_at_once_or_has_not_is_told(unwanted: str, said: str) -> None:
    """So that a new version of a package stops the build, and not a function."""
    with pytest.raises(ValueError, match=said):
        defer(SOURCE, "package/module.py", [unwanted])


def test_a_name_that_a_function_uses_otherwise_is_told() -> None:
    """An import would take its place."""
    with pytest.raises(ValueError, match="variable of the name json"):
        defer("import json\ndef read(json):\n    return json", "module.py", ["json"])


def test_modules_offer_what_they_offered(trimmed: Path) -> None:
    """Every public name of every module that is changed, and of the packages that only offer others' names."""
    modules = [".".join(Path(name).with_suffix("").parts).removesuffix(".__init__") for name in DEFERRED]
    code = (
        "import importlib\n"
        f"for name in {modules}:\n"
        "    module = importlib.import_module(name)\n"
        "    late = vars(module).get('_DEFERRED', {})\n"
        "    for each in sorted({*late, *vars(module)}):\n"
        "        if each.startswith('__') or each == '_DEFERRED': continue\n"
        "        value = getattr(module, each)\n"
        "        print(name, each, getattr(value, '__module__', ''), getattr(value, '__qualname__', type(value)))\n"
    )
    # A package has those of its modules that were loaded as attributes too; which they are may differ.
    now, before = (
        {line for line in run(code, site).splitlines() if "<class 'module'>" not in line} for site in (trimmed, SITE)
    )
    assert now == before
    assert len(before) > 500
    assert OWN in DEFERRED.values()


CLIENTS = f"""
import json, botocore.session
from botocore.awsrequest import AWSResponse, HTTPHeaders
from botocore.config import Config

class Body:
    def __init__(self, content): self.content = content
    def stream(self, **_): yield self.content

answers = {{}}

def answer(client, *to_give):
    def send(request, **_):
        status, body, *headers = answers[client]
        print(request.method, request.url, sorted(request.headers), request.body)
        given = HTTPHeaders()
        for name, value in headers:
            given[name] = value
        return AWSResponse(request.url, status, given, Body(body))
    if client not in answers:
        client.meta.events.register_first('before-send', send)
    answers[client] = to_give

def attempt(act, *args, **named):
    try:
        print(act(*args, **named))
    except Exception as error:
        print([each.__qualname__ for each in type(error).__mro__[:3]], error, getattr(error, 'response', None))

session = botocore.session.get_session()
for mode in ('legacy', 'standard', 'adaptive'):
    config = Config(retries={{'mode': mode, 'total_max_attempts': 1}}, user_agent='x')
    for service in {SERVICES}:
        client = session.create_client(service, region_name='eu-central-1', config=config)
        names = ['get_item', 'query'] if service == 'dynamodb' else sorted(client.meta.method_to_api_mapping)
        print(service, mode, [name for name in names if hasattr(client, name)], client.meta.endpoint_url)
dynamodb = session.create_client('dynamodb', config=Config(retries={{'total_max_attempts': 1}}))
key = {{'pk': {{'S': 'a'}}}}
answer(dynamodb, 200, b'{{"Item": {{"pk": {{"S": "a"}}}}}}')
attempt(dynamodb.get_item, TableName='t', Key=key)
attempt(dynamodb.get_item, TableName='t', Key='a')
answer(dynamodb, 400, b'{{"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "Item": {{}}}}')
attempt(dynamodb.put_item, TableName='t', Item=key)
answer(dynamodb, 500, b'{{"__type": "InternalServerError"}}')
attempt(dynamodb.transact_write_items, TransactItems=[], ClientRequestToken='x')
answer(dynamodb, 200, b'{{"Items": [], "Table": {{"TableStatus": "ACTIVE"}}}}')
attempt(lambda: list(dynamodb.get_paginator('query').paginate(TableName='t')))
attempt(dynamodb.get_waiter('table_exists').wait, TableName='t')
print(dynamodb.waiter_names[-2:], type(dynamodb.get_item.__doc__))
sqs = session.create_client('sqs', config=Config(retries={{'total_max_attempts': 1}}))
answer(sqs, 400, b'{{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "m"}}',
       ('x-amzn-query-error', 'AWS.SimpleQueueService.NonExistentQueue;Sender'))
attempt(sqs.send_message, QueueUrl='https://sqs.eu-central-1.amazonaws.com/1/q', MessageBody='b')
sns = session.create_client('sns', config=Config(retries={{'total_max_attempts': 1}}))
answer(sns, 404, b'<ErrorResponse><Error><Type>Sender</Type><Code>NotFound</Code></Error></ErrorResponse>')
attempt(sns.publish, TopicArn='arn:aws:sns:eu-central-1:1:t', Message='m')
sts = session.create_client('sts', config=Config(retries={{'total_max_attempts': 1}}))
answer(sts, 200, b'<A><AssumeRoleWithWebIdentityResult><Credentials><Expiration>2026-01-01T00:00:00Z</Expiration>'
                 b'</Credentials></AssumeRoleWithWebIdentityResult></A>')
role = {{'RoleArn': 'arn:aws:iam::1:role/role', 'RoleSessionName': 'nn'}}
attempt(sts.assume_role_with_web_identity, **role, WebIdentityToken='ttt')
for url in ('http://[::1]:9', 'http://127.0.0.1:9', 'bad'):
    config = Config(retries={{'total_max_attempts': 1}}, connect_timeout=1)
    attempt(lambda: session.create_client('dynamodb', endpoint_url=url, config=config).get_item(TableName='t', Key=key))
"""


def test_clients_do_what_they_did(trimmed: Path) -> None:
    """Requests, answers, errors, pages and waiters of each service whose data is kept, in each mode of retries."""

    def steady(said: str) -> list[str]:
        return [line for line in said.splitlines() if "Signature" not in line]

    now, before = steady(run(CLIENTS, trimmed)), steady(run(CLIENTS, SITE))
    assert now == before
    assert len(before) > 30
    assert "ConditionalCheckFailedException" in "".join(before)


def test_what_a_role_may_do_can_be_done(trimmed: Path) -> None:
    """A client of DynamoDB knows each operation that template.yaml allows, and those that are made of them."""
    code = (
        "import botocore.session\n"
        "client = botocore.session.get_session().create_client('dynamodb')\n"
        "print(*client.meta.method_to_api_mapping.values())"
    )
    known = set(run(code, trimmed).split())
    text = (ROOT / "template.yaml").read_text()
    allowed = set(re.findall(r"dynamodb:(\w+)", text)) - {"ConditionCheckItem"}
    allowed -= {"LeadingKeys", "Attributes", "ReturnValues"}  # of conditions
    allowed -= {"DescribeStream", "GetRecords", "GetShardIterator", "ListStreams"}  # Lambda reads streams, not we
    assert "GetItem" in allowed
    assert allowed <= known
    assert {"TransactWriteItems", "TransactGetItems"} <= known
    assert "DeleteTable" not in known


def test_handlers_of_other_services_are_left_out(trimmed: Path) -> None:
    """And those of documentation; all that any service, or one of ours, has stay, in their order."""
    code = "from botocore.handlers import BUILTIN_HANDLERS\nfor each in BUILTIN_HANDLERS: print(each[0])"
    kept, everything = run(code, trimmed).split(), run(code, SITE).split()
    gone = list(everything)
    for name in kept:
        gone.remove(name)
    assert [name for name in everything if name in kept] == kept
    ours = {*SERVICES, "monitoring", "eventbridge", "*"}
    assert [name for name in gone if not name.startswith("docs.") and {*name.split(".")[1:2]} <= ours] == []
    assert len(kept) < len(everything) / 2


def test_a_function_of_the_hot_path_loads_no_more_than_it_needs(trimmed: Path) -> None:
    """Neither pydantic nor asyncio, nor what reads or writes documentation."""
    code = (
        "import sys, botocore.session, pynamodb.models\n"
        "from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response\n"
        "from aws_lambda_powertools.logging import Logger\n"
        "APIGatewayHttpResolver(), Logger(); botocore.session.get_session().create_client('dynamodb')\n"
        "print([name for name in ('asyncio', 'pydantic', 'jmespath', 'html.parser', 'importlib.metadata', 'boto3',"
        " 'configparser', 'dateutil.parser', 'botocore.docs.service', 'botocore.waiter') if name in sys.modules])"
    )
    assert run(code, trimmed).strip() == "[]"
