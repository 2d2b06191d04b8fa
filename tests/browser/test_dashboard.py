"""What people do at the dashboard, each from beginning to end, with a real sandbox and relay."""

import asyncio
import json
import shlex
import signal
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Page, expect

from relay.clock import ManualClock
from relay.core.holding import SubmittingHeld
from tests.browser.conftest import Profile, Tabs
from tests.browser.dashboard import go, live, sign_in
from tests.conformance.fronts import front
from tests.journeys import ADMIN_TOKEN, EXAMPLE, Journey, eventually, journey, surroundings, while_time_passes
from tests.web.test_deliveries import settled
from tests.web.test_scopes import token
from tests.web.test_steering import in_doubt, lost_answer
from tests.whole.processes import free_port, serving

pytestmark = pytest.mark.anyio

PICTURE = b"\x89PNG\r\n\x1a\n0000"


async def test_somebody_signs_in_with_a_token_and_out_again(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        page = await tabs.open(f"{here.relay_url}/#/stats")
        await page.get_by_label("Token").fill("not a token of this relay")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_have_text("The relay does not know this token.")
        await page.get_by_label("Token").fill(ADMIN_TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Stats")).to_be_visible()
        await page.reload()
        await live(page)
        readable = await page.evaluate("() => document.cookie")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        await page.reload()
        await expect(page.get_by_label("Token")).to_be_visible()

    assert readable == ""


async def test_whoever_holds_a_token_sees_what_it_may_do_and_no_more(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        shop = await token(here, "submit")
        page = await sign_in(tabs, here.relay_url, shop["token"])
        pages = await page.get_by_role("navigation").get_by_role("link").all_text_contents()
        await here.submit()
        await expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
        await here.client.delete(f"/v1/tokens/{shop['id']}")
        await page.evaluate("() => { location.hash = '#/submit' }")
        await expect(page.get_by_label("Token")).to_be_visible()

    assert pages == ["Jobs", "New job"]


async def test_whoever_signs_in_or_out_in_one_tab_does_so_in_all(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        shop = await token(here, "submit")
        first = await sign_in(tabs, here.relay_url)
        second = await tabs.open(here.relay_url)
        await live(second)
        await second.get_by_role("button", name="Sign out").click()
        await expect(first.get_by_label("Token")).to_be_visible()
        await eventually(lambda: here.node.app.state.streams.open == 0)
        await second.get_by_label("Token").fill(shop["token"])
        await second.get_by_role("button", name="Sign in").click()
        await expect(first.locator(".name")).to_have_text(shop["name"])
        await live(first)
        await here.submit()
        mine = (
            await here.client.post("/v1/jobs", json=EXAMPLE, headers={"Authorization": f"Bearer {shop['token']}"})
        ).json()
        await expect(first.locator(".job")).to_have_count(1)
        await expect(first.locator(".job a")).to_have_attribute("href", f"#/jobs/{mine['id']}")


async def test_an_open_page_ends_with_its_token(tmp_path: Path, tabs: Tabs) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, sandbox_clock=clock) as here:
        shop = await token(here, "read")
        page = await sign_in(tabs, here.relay_url, shop["token"])
        await here.client.delete(f"/v1/tokens/{shop['id']}")
        await while_time_passes(clock, expect(page.get_by_label("Token")).to_be_visible(timeout=20_000))


async def test_a_token_is_made_shown_once_and_revoked(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        page = await sign_in(tabs, here.relay_url)
        await go(page, "tokens")
        await page.get_by_role("button", name="New token").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Name").fill("shop")
        await dialog.get_by_label("submit:").check()
        await dialog.get_by_role("button", name="Make it").click()
        secret = await page.locator(".secret code").inner_text()
        await page.get_by_role("button", name="I have it").click()
        await expect(page.locator(".token")).to_contain_text("shop")
        made = await here.client.post("/v1/jobs", json=EXAMPLE, headers={"Authorization": f"Bearer {secret}"})
        await page.get_by_role("button", name="Revoke").click()
        await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        await expect(page.locator(".token")).to_have_count(0)
        after = await here.client.get("/v1/jobs", headers={"Authorization": f"Bearer {secret}"})
        content = await page.content()

    assert (made.status_code, made.json()["submittedBy"], after.status_code) == (202, "shop", 401)
    assert secret not in content


async def test_the_list_shows_jobs_as_they_are_at_this_moment(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path, times_s=(0.01, 1e6)) as here:
        page = await sign_in(tabs, here.relay_url)
        jobs = page.locator(".job")
        running = await here.submit(replyRef="order-7")
        await expect(jobs).to_contain_text("A cinematic aerial shot of a coastal city at golden hour")
        await expect(jobs.get_by_role("progressbar")).to_be_visible()
        here.vendor._times_s = (0.01, 0.05)
        await here.submit(replyRef="order-8", text_prompt="A fox crosses fresh snow")
        preview = jobs.filter(has_text="Succeeded").locator("img")
        await page.wait_for_function("(image) => image.naturalWidth === 160", arg=await preview.element_handle())
        await page.get_by_role("searchbox").fill("fresh snow")
        await expect(jobs).to_have_count(1)
        await expect(jobs).to_contain_text("order-8")
        await page.get_by_role("searchbox").fill("")
        await page.get_by_role("button", name="Running").click()
        await expect(jobs).to_have_count(1)
        await jobs.get_by_role("link").click()
        await page.locator(".back").click()
        await expect(jobs).to_have_count(1)
        await page.reload()
        await expect(jobs).to_have_count(1)
        await expect(jobs).to_contain_text("order-7")
        await live(page)
        assert (await here.client.post(f"/v1/jobs/{running['id']}/cancel")).status_code == 200
        await expect(page.get_by_text("No job is like that.")).to_be_visible()


async def test_a_job_page_tells_everything_and_plays_the_video(tmp_path: Path, profile: Profile) -> None:
    tabs = await profile(permissions=["clipboard-read", "clipboard-write"])
    async with journey(tmp_path) as here:
        await here.subscribe()
        job = await here.ended((await here.submit(text_prompt="It's a fox; $HOME `ls`"))["id"])
        await here.subscriber.wait_for(1)
        page = await sign_in(tabs, here.relay_url)
        await go(page, f"jobs/{job['id']}")
        await expect(page.locator(".timeline")).to_contain_text("job.succeeded to")
        told = await page.locator(".timeline").inner_text()
        why = await page.locator(".why").inner_text()
        await page.locator("video").evaluate("(video) => (video.muted = true, video.play())")
        await page.wait_for_function("() => document.querySelector('video').currentTime > 0")
        await page.get_by_role("button", name="Copy as curl").click()
        await expect(page.locator(".toast")).to_have_text("Copied.")
        words = shlex.split(await page.evaluate("() => navigator.clipboard.readText()"))

    for part in (
        "Queued",
        "Attempt 1 sent to sandbox@example.com",
        "asked about 1 time",
        "The upstream took it",
        "callback",
        "Succeeded",
        "job.succeeded",
        "200",
    ):
        assert part in told, part
    assert "delivered" in why
    assert words[:3] == ["curl", "-s", f"{here.relay_url}/v1/jobs"]
    assert json.loads(words[-1]) == job["request"]


async def test_a_job_is_submitted_by_the_form_with_a_picture(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        page = await sign_in(tabs, here.relay_url)
        await go(page, "submit")
        await page.locator("[name=model]").select_option("veo-3.1")
        await page.get_by_label("Prompt").fill("x" * 5_001)
        await expect(page.locator(".is-wrong")).to_contain_text("5000")
        await page.get_by_label("Prompt").fill("A fox crosses fresh snow")
        await expect(page.locator(".is-wrong")).to_have_count(0)
        await page.locator("[name=duration]").select_option("8")
        await page.locator("[name=resolution]").select_option("1080p")
        await page.get_by_label("First frame").set_input_files(
            {"name": "fox.png", "mimeType": "image/png", "buffer": PICTURE}
        )
        await expect(page.locator(".slot.done")).to_contain_text("fox.png")
        await page.get_by_role("button", name="Submit").click()
        await expect(page.get_by_role("heading", name="A fox crosses fresh snow")).to_be_visible()
        (job,) = (await here.get("/v1/jobs"))["data"]
        request = (await here.job(job["id"]))["request"]

    assert request.pop("imageAssetId1").startswith("user:")
    assert request == {
        "model": "veo-3.1",
        "text_prompt": "A fox crosses fresh snow",
        "duration": 8,
        "resolution": "1080p",
    }


async def test_a_job_is_cancelled_a_failed_one_tried_again_and_one_erased(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path, times_s=(0.01, 1e6)) as here:
        job = await here.job_in((await here.submit())["id"], "running")
        page = await sign_in(tabs, here.relay_url)
        await go(page, f"jobs/{job['id']}")
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator(".meta .pill")).to_have_text("Cancelled")
        here.vendor.faults.replace({"refused": {"value": True, "times": 1}})
        failed = await here.ended((await here.submit())["id"])
        await go(page, f"jobs/{failed['id']}")
        await page.get_by_role("button", name="Try again").click()
        await page.get_by_role("link", name="First try").wait_for()
        again = (await here.get("/v1/jobs"))["data"][0]
        await go(page, f"jobs/{job['id']}")
        await page.get_by_role("button", name="Erase").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await page.get_by_role("button", name="Erase").click()
        await page.get_by_role("dialog").get_by_role("button", name="Erase").click()
        await expect(page.locator(".why")).to_contain_text("was erased")

    assert again["retryOf"] == failed["id"]


async def test_a_doubt_is_settled_by_a_person(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path, faults=lost_answer()) as here:
        job = await in_doubt(here)
        page = await sign_in(tabs, here.relay_url)
        await go(page, f"jobs/{job['id']}")
        await page.get_by_role("button", name="Settle the doubt").click()
        await page.get_by_role("dialog").get_by_label("Give it up").check()
        await page.get_by_role("button", name="Settle it").click()
        await expect(page.locator(".meta .pill")).to_have_text("Failed")
        after = await here.job(job["id"])

    assert (after["state"], after["error"]["code"]) == ("failed", "submit_unknown")


async def test_a_subscription_is_made_tried_out_given_a_new_secret_and_removed(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        page = await sign_in(tabs, here.relay_url)
        await go(page, "subscriptions")
        await page.get_by_role("button", name="New subscription").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Address").fill(here.subscriber.url)
        await dialog.get_by_label("What it is for").fill("The shop")
        await dialog.get_by_label("job.succeeded").check()
        await dialog.get_by_role("button", name="Subscribe").click()
        first = await page.locator(".secret code").inner_text()
        await page.get_by_role("button", name="I have it").click()
        await page.get_by_role("button", name="Ping").click()
        await expect(page.locator(".answer.good")).to_contain_text("answered 200")
        await page.get_by_role("button", name="New secret").click()
        await page.get_by_role("button", name="Make it").click()
        second = await page.locator(".secret code").inner_text()
        await page.get_by_role("button", name="I have it").click()
        html = await page.content()
        (made,) = (await here.get("/v1/subscriptions"))["data"]
        await page.get_by_role("button", name="Remove").click()
        await page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        await expect(page.get_by_text("Nobody is told of anything yet.")).to_be_visible()

    assert first.startswith("whsec_")
    assert second.startswith("whsec_")
    assert first != second
    assert first not in html
    assert second not in html
    assert (made["description"], made["types"]) == ("The shop", ["job.succeeded"])


async def test_dead_letters_are_seen_and_sent_again_after_a_preview(tmp_path: Path, tabs: Tabs) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        made = await here.subscribe(description="The shop")
        here.subscriber.answers = [503] * 1_000
        await here.ended((await here.submit())["id"])
        for _ in range(30):
            await settled(here)
            clock.advance(4 * 3_600)
        here.subscriber.answers = []
        tried = len(here.subscriber.got)
        page = await sign_in(tabs, here.relay_url)
        await go(page, f"subscriptions/{made['id']}")
        if await page.get_by_role("button", name="Go on").count():
            await page.get_by_role("button", name="Go on").click()
            await page.get_by_role("dialog").get_by_role("button", name="Go on").click()
        await page.get_by_role("button", name="Send again…").click()
        await expect(page.get_by_role("dialog")).to_contain_text("1 delivery would go out again")
        await expect(page.get_by_role("dialog").locator(".sample li")).to_have_count(1)
        assert len(here.subscriber.got) == tried
        await page.get_by_role("dialog").get_by_role("button", name="Send", exact=True).click()
        await here.subscriber.wait_for(tried + 1)
        await expect(page.locator(".deliveries").get_by_text("delivered")).to_be_visible()
        await expect(page.get_by_text("None.")).to_be_visible()


async def test_accounts_show_their_slots_and_why_one_is_parked(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path, times_s=(0.01, 1e6)) as here:
        await here.job_in((await here.submit())["id"], "running")
        page = await sign_in(tabs, here.relay_url)
        await go(page, "accounts")
        await expect(page.locator(".account")).to_contain_text("1 of 2 slots in use")
        here.vendor.faults.replace({"no_credits": {"value": "412", "times": 1}})
        await here.submit()
        await expect(page.locator(".account")).to_contain_text("Parked")
        await expect(page.locator(".account")).to_contain_text("No credits left")


async def test_a_page_that_is_open_lives_through_a_restart(tmp_path: Path, tabs: Tabs) -> None:
    port = free_port()
    async with surroundings(tmp_path, times_s=(0.01, 1e6)) as around:
        async with serving(around, port) as relay:
            await relay.submit(replyRef="before")
            page = await sign_in(tabs, relay.url)
            await expect(page.locator(".job")).to_have_count(1)
            assert await relay.stopped(signal.SIGTERM) == 0
        await expect(page.locator(".offline")).to_be_visible()
        await expect(page.locator(".job")).to_have_count(1)
        async with serving(around, port) as relay:
            await relay.submit(replyRef="after")
            await live(page)
            await expect(page.locator(".offline")).to_have_count(0)
            await expect(page.locator(".job")).to_have_count(2)


@pytest.mark.parametrize("name", ["nginx with TLS", "caddy with TLS"])
async def test_behind_a_proxy_everything_is_as_live_and_the_cookie_is_secure(
    tmp_path: Path, profile: Profile, name: str
) -> None:
    port = free_port()
    tabs = await profile(ignore_https_errors=True)
    async with (
        surroundings(tmp_path, times_s=(0.01, 1e6)) as around,
        front(name, tmp_path / "front", f"http://127.0.0.1:{port}") as proxy,
        serving(around, port, public_url=proxy.url) as relay,
    ):
        page = await sign_in(tabs, proxy.url)
        await relay.submit()
        await expect(page.locator(".job .pill")).to_have_text("Running")
        await page.locator(".job a").click()
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator(".meta .pill")).to_have_text("Cancelled")
        (cookie,) = await tabs.context.cookies()

    assert cookie["name"].startswith("__Host-relay-")
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")


async def test_a_tab_that_nobody_sees_asks_nothing_until_somebody_looks(tmp_path: Path, tabs: Tabs) -> None:
    show = """(state) => {
      Object.defineProperty(document, 'visibilityState', { value: state, configurable: true })
      document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))
    }"""
    async with journey(tmp_path) as here:
        page = await sign_in(tabs, here.relay_url)
        await expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
        await page.evaluate(show, "hidden")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await here.ended((await here.submit(replyRef="unseen"))["id"])
        # A round trip through the same worker: what the stream told of before has come.
        other = await tabs.open(here.relay_url)
        await expect(other.locator(".job")).to_contain_text("Succeeded")
        unseen = list(asked)
        await page.evaluate(show, "visible")
        await expect(page.locator(".job")).to_contain_text("unseen")

    assert unseen == []


async def test_a_queue_that_is_held_is_told_of_and_let_go(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        store, now_ms = here.node.app.state.store, here.node.clock.now_ms()
        await store.apply(SubmittingHeld("the database is older than its mark", now_ms))
        page = await sign_in(tabs, here.relay_url)
        await expect(page.locator(".offline")).to_contain_text("the database is older than its mark")
        job = await here.submit()
        await here.until(lambda: here.get("/readyz"), lambda ready: ready["hold"]["searchedAt"] is not None)
        await page.get_by_role("button", name="Let the queue move").click()
        await expect(page.locator(".offline")).to_have_count(0)
        after = await here.ended(job["id"])

    assert after["state"] == "succeeded"


async def test_twelve_tabs_share_one_stream(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path, times_s=(0.01, 1e6)) as here:
        pages = [await sign_in(tabs, here.relay_url)]
        pages += await asyncio.gather(*(tabs.open(here.relay_url) for _ in range(11)))
        await asyncio.gather(*map(live, pages))
        streams = here.node.app.state.streams.open
        await here.submit(replyRef="to all")
        await asyncio.gather(*(expect(page.locator(".job")).to_contain_text("to all") for page in pages))
        for page in pages:
            await page.close()
        await eventually(lambda: here.node.app.state.streams.open == 0)

    assert streams == 1


async def test_everything_can_be_done_from_the_keyboard(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        await here.ended((await here.submit(text_prompt="A fox"))["id"])
        page = await sign_in(tabs, here.relay_url)
        await expect(page.locator(".job")).to_have_count(1)
        await page.reload()
        await live(page)
        await page.keyboard.press("Tab")
        skips = await page.evaluate("() => document.activeElement.textContent")
        await tab_to(page, "A fox")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="A fox")).to_be_focused()
        await tab_to(page, "Erase")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        inside = "() => document.activeElement.closest('dialog') !== null"
        assert await page.evaluate(inside)
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)

    assert skips == "Skip to the page"


async def tab_to(page: Page, words: str) -> None:
    for _ in range(40):
        await page.keyboard.press("Tab")
        if words in await page.evaluate("() => document.activeElement.textContent"):
            return
    raise AssertionError(f"{words!r} is not reached by Tab")


async def test_a_ticket_opens_nothing_more_at_the_dashboard(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path) as here:
        job, other = await here.submit(replyRef="mine"), await here.submit(replyRef="other")
        ticket = (await here.client.post("/v1/tickets", json={"job": job["id"]})).json()["ticket"]
        page = await tabs.open(f"{here.relay_url}/?ticket={ticket}#/jobs/{other['id']}")
        await expect(page.get_by_label("Token")).to_be_visible()
        await page.get_by_label("Token").fill(ticket)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        tried = await page.evaluate(
            """async ([ticket, own, other]) => {
              const doors = [
                ['GET', '/session'], ['GET', '/v1/jobs'], ['GET', `/v1/jobs/${other}`], ['GET', `/v1/jobs/${own}/why`],
                ['GET', `/v1/jobs/${own}/callbacks`], ['POST', `/v1/jobs/${own}/cancel`], ['POST', '/v1/jobs'],
                ['POST', '/v1/tickets'], ['GET', '/v1/accounts'], ['GET', '/v1/stats'], ['DELETE', `/v1/jobs/${own}`],
              ]
              const ask = ([method, path]) => fetch(`${path}?ticket=${ticket}`, { method }).then(({ status }) => status)
              return Promise.all(doors.map(ask))
            }""",
            [ticket, job["id"], other["id"]],
        )
        shown = await page.evaluate(
            "(url) => fetch(url).then((it) => it.json())", f"/v1/jobs/{job['id']}?ticket={ticket}"
        )

    assert tried == [401, 401, 404, 401, 401, 401, 401, 401, 401, 401, 401]
    assert "mine" not in json.dumps(shown)


async def test_a_page_of_another_origin_does_nothing_with_the_session(tmp_path: Path, tabs: Tabs) -> None:
    async with journey(tmp_path, times_s=(0.01, 1e6)) as here:
        job = await here.job_in((await here.submit())["id"], "running")
        await sign_in(tabs, here.relay_url)
        # Another port is another origin, and the same site: the browser sends the cookie along.
        page = await tabs.open(f"{here.sandbox_url}/sandbox/state")
        send = """([url, body]) => fetch(url, { method: 'POST', mode: 'no-cors', credentials: 'include', body })"""
        await page.evaluate(send, [f"{here.relay_url}/v1/jobs", json.dumps(EXAMPLE)])
        await page.evaluate(send, [f"{here.relay_url}/v1/jobs/{job['id']}/cancel", None])
        read = "(url) => fetch(url, { credentials: 'include' }).then(() => 'read', () => 'refused')"
        answer = await page.evaluate(read, f"{here.relay_url}/v1/jobs")
        jobs = (await here.get("/v1/jobs"))["data"]
        tabs.wrong = [line for line in tabs.wrong if "has been blocked by CORS policy" not in line]

    assert (answer, [job["state"] for job in jobs]) == ("refused", ["running"])


async def test_the_shell_says_what_may_run_in_it(tmp_path: Path) -> None:
    async with journey(tmp_path) as here, httpx2.AsyncClient(trust_env=False) as stranger:
        answer = await stranger.get(f"{here.relay_url}/")
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert answer.headers["x-frame-options"] == "DENY"


async def open_everything(here: Journey, page: Page) -> None:
    """Look at every page, with all that folds out."""
    jobs = [job["id"] for job in (await here.get("/v1/jobs"))["data"]]
    subscriptions = [one["id"] for one in (await here.get("/v1/subscriptions"))["data"]]
    for path in (
        "jobs",
        *(f"jobs/{job}" for job in jobs),
        "submit",
        "accounts",
        "subscriptions",
        *(f"subscriptions/{one}" for one in subscriptions),
        "quarantine",
        "stats",
    ):
        await go(page, path)
        await page.evaluate("() => document.querySelectorAll('details').forEach((each) => (each.open = true))")


async def test_what_others_wrote_is_shown_and_never_run(tmp_path: Path, tabs: Tabs) -> None:
    evil = """"'><img src=x onerror="window.pwned='{0}'"><script>window.pwned='{0}'</script>${{pwned=1}}{{{{pwned}}}}"""
    async with journey(tmp_path) as here:
        await here.subscribe(description=evil.format("description")[:100])
        job = await here.ended(
            (await here.submit(text_prompt=evil.format("prompt"), replyRef=evil.format("reference")))["id"]
        )
        here.vendor.faults.replace({"refused": {"value": True, "times": 1}})
        await here.ended((await here.submit(text_prompt=f"javascript:{evil.format('failed')}"))["id"])
        callback = await callback_url(here)
        body = json.dumps({"taskId": evil.format("task"), "status": evil.format("status")})
        for content in (body, evil.format("quarantine")):
            assert (
                await here.client.post(callback, content=content, headers={"Content-Type": "<b>"})
            ).status_code == 200
        page = await sign_in(tabs, here.relay_url)
        await open_everything(here, page)
        await go(page, "submit")
        await page.get_by_label("First frame").set_input_files(
            {"name": evil.format("file"), "mimeType": "image/png", "buffer": PICTURE}
        )
        await expect(page.locator(".slot .small")).to_contain_text("onerror")
        await go(page, "quarantine")
        await page.get_by_text("What it said").click()
        await expect(page.locator("pre")).to_contain_text("window.pwned")
        await go(page, f"jobs/{job['id']}")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("<script>")
        pwned = await page.evaluate("() => window.pwned ?? null")

    assert pwned is None


async def callback_url(here: Journey) -> str:
    """An address that the upstream was given, which a stranger has got hold of."""
    here.vendor._times_s = (1e6, 1e6)
    await here.job_in((await here.submit())["id"], "running")
    reply_url: str | None = next(iter(here.vendor.register.newest_first())).reply_url
    assert reply_url is not None
    return reply_url
