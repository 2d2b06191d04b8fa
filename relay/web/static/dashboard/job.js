/** One job: its video, why it is where it is, what has happened to it, and what may be done about it. */

import { html, nothing } from '../vendor/lit-html.js'
import { call, get, newKey, post } from './api.js'
import { ask } from './dialog.js'
import { progress } from './jobs.js'
import { FINAL, address, bar, between, clock, counted, duration, expected, icon, pill, sentence, shortId, size, when } from './words.js'

const PAGE = 200
const REFRESH_MS = 1_000

const EVENTS = {
  'job.queued': ['clock', 'Queued'],
  'job.submitted': ['send', 'The upstream took it'],
  'job.in_doubt': ['question', 'In doubt'],
  'job.succeeded': ['check', 'Succeeded'],
  'job.failed': ['cross', 'Failed'],
  'job.cancelled': ['cross', 'Cancelled'],
}

export function jobPage(app, id) {
  let job = null
  let why = null
  let told = { events: [], callbacks: [], deliveries: [] }
  let problem = null
  let refresh = null
  let playing = 0

  async function reload() {
    const path = `/v1/jobs/${encodeURIComponent(id)}`
    const lists = (name) => get(`${path}/${name}`, { limit: PAGE }).then(({ data }) => data, () => [])
    try {
      const [found, because, events, callbacks, deliveries] = await Promise.all([
        get(path),
        get(`${path}/why`).catch(() => null),
        get(`${path}/events`, { limit: PAGE, type: Object.keys(EVENTS) }).then(({ data }) => data, () => []),
        lists('callbacks'),
        lists('deliveries'),
      ])
      job = found
      why = because
      told = { events, callbacks, deliveries }
      problem = null
    } catch (error) {
      problem = error
    }
    app.draw()
  }

  const reloadSoon = (ms = REFRESH_MS) => (refresh ??= setTimeout(() => ((refresh = null), reload()), ms))

  function event({ data }) {
    if (data.job?.id !== job?.id) return
    Object.assign(job, data.job, { startsAt: job.startsAt, eta: job.eta, queuePosition: job.queuePosition })
    reloadSoon(FINAL.has(job.state) ? 0 : REFRESH_MS)
    app.draw()
  }

  const doing = (what, path, body) => async () => {
    const answer = await app.attempt(() => post(path, body, { 'Idempotency-Key': newKey() }))
    if (answer) app.say(what)
    await reload()
    return answer
  }

  async function retry() {
    const answer = await doing('Submitted once more.', `/v1/jobs/${job.id}/retry`)()
    if (answer) app.go(`jobs/${answer.id}`)
  }

  async function resolve() {
    const said = await ask({
      title: 'What became of it?',
      words: 'Nobody knows whether the upstream took this job. Look there, and say what you found.',
      fields: html`
        <label class="choice"><input type="radio" name="outcome" value="created" required /> It runs there, as this task: <input name="taskId" list="candidates" placeholder="user:…-task:…" aria-label="The task's id" /></label>
        <datalist id="candidates">${(why?.facts.candidates ?? []).map(({ taskId }) => html`<option value=${taskId}></option>`)}</datalist>
        <label class="choice"><input type="radio" name="outcome" value="not_created" /> It was not taken: put it back into the queue</label>
        <label class="choice"><input type="radio" name="outcome" value="failed" /> Give it up: the job fails</label>`,
      action: 'Settle it',
    })
    if (!said) return
    const { outcome, taskId } = said
    await doing('Settled.', `/v1/jobs/${job.id}/resolve`, outcome === 'created' ? { outcome, taskId } : { outcome })()
  }

  async function erase() {
    const words = 'Its prompt, the bodies of its callbacks and its files go for ever. Its id and its place in the figures stay.'
    if (!(await ask({ title: 'Erase this job?', words, action: 'Erase', danger: true }))) return
    const gone = await app.attempt(() => call('DELETE', `/v1/jobs/${job.id}`).then(() => true))
    if (gone) app.say('Erased.')
    reload()
  }

  const copy = async () => {
    await app.attempt(() => navigator.clipboard.writeText(curl(job)))
    app.say('Copied.')
  }

  return {
    reload,
    event,
    title: () => job?.request?.text_prompt?.slice(0, 60) || 'Job',
    start: reload,
    stop: () => clearTimeout(refresh),
    view() {
      if (problem && !job)
        return html`<a class="back" href="#/jobs" @click=${back}>${icon('back')}Jobs</a><h1 tabindex="-1">Job</h1><p class="wrong" role="alert">${problem.message}</p>`
      if (!job) return html`<h1 tabindex="-1">Job</h1><p class="quiet">Loading…</p>`
      return html`
        <a class="back" href="#/jobs" @click=${back}>${icon('back')}Jobs</a>
        <div class="head">
          <h1 tabindex="-1" class="prompt">${job.request?.text_prompt || job.model || 'Job'}</h1>
        </div>
        <p class="meta wide">${pill(job.state)}<b>${job.model}</b>${job.account ? html`<span>${job.account}</span>` : nothing}${job.replyRef ? html`<span>${job.replyRef}</span>` : nothing}<span>${when(job.createdAt)}</span></p>
        <div class="actions">${actions()}</div>
        <div class="columns">
          <div>${stage()}${asked()}</div>
          <div>${because()}${timeline(job, told, why?.facts)}</div>
        </div>`
    },
  }

  function actions() {
    const open = !FINAL.has(job.state)
    return html`
      ${open && app.may('submit') ? html`<button @click=${doing('Cancelled.', `/v1/jobs/${job.id}/cancel`)}>${icon('cross')}Cancel</button>` : nothing}
      ${job.state === 'failed' && app.may('submit') ? html`<button class="primary" @click=${retry}>${icon('retry')}Try again</button>` : nothing}
      ${job.state === 'in_doubt' && app.may('manage') ? html`<button class="primary" @click=${resolve}>${icon('question')}Settle the doubt</button>` : nothing}
      ${!open && app.may('manage') ? html`<button @click=${erase}>Erase</button>` : nothing}
      ${job.retryOf ? html`<a class="button" href="#/jobs/${job.retryOf}">${icon('retry')}First try</a>` : nothing}`
  }

  /** Where the video is, or will be. */
  function stage() {
    const artifact = job.artifacts[playing]
    if (!artifact)
      return html`<section class="card stage ${job.state}" aria-label="Video"><div class="screen"><div>${icon(job.state === 'failed' ? 'cross' : job.state === 'queued' ? 'clock' : 'film')}<p class="big">${waitingFor()}</p>${progress(job)}</div></div></section>`
    const previews = artifact.previewUrls ?? []
    return html`
      <section class="card stage" aria-label="Video">
        ${artifact.kind === 'video'
          ? html`<video controls playsinline preload="metadata" .src=${address(artifact.url)} .poster=${previews[0] ? address(previews[0]) : ''} @error=${() => app.say('This video does not play.', 'bad')}></video>`
          : artifact.kind === 'image'
            ? html`<img class="picture" src=${address(artifact.url)} alt="What came of it" />`
            : html`<p class="quiet">A file of another kind.</p>`}
        ${previews.length > 1 ? html`<div class="previews">${previews.map((url) => html`<img src=${address(url)} alt="" loading="lazy" />`)}</div>` : nothing}
        ${job.artifacts.length > 1 ? html`<div class="previews">${job.artifacts.map((each, index) => html`<button aria-pressed=${index === playing} @click=${() => ((playing = index), app.draw())}>${index + 1}</button>`)}</div>` : nothing}
        <p class="meta">
          <span>${artifact.width ? `${artifact.width} × ${artifact.height}` : artifact.contentType}</span>${artifact.durationS ? html`<span>${duration(artifact.durationS)}</span>` : nothing}<span>${size(artifact.sizeBytes)}</span><span>${artifact.keptUntil ? html`kept for ${between(new Date(), artifact.keptUntil)}` : 'read from the upstream'}</span><a href=${address(artifact.url)} download>Download</a>
        </p>
      </section>`
  }

  function waitingFor() {
    return { queued: 'Waiting for a slot', submitting: 'On its way to the upstream', running: 'Rendering', in_doubt: 'In doubt', failed: 'It failed', cancelled: 'It was cancelled' }[job.state] ?? 'There is no file'
  }

  function because() {
    if (!why) return nothing
    return html`
      <section class="card why"><h2>Why it is where it is</h2><ul>${why.sentences.map((text) => html`<li>${sentence(text)}</li>`)}</ul></section>`
  }

  function asked() {
    if (!job.request) return nothing
    const { text_prompt: prompt, model, ...rest } = job.request
    const shown = Object.entries({ ...rest, ...(job.replyUrl && { replyUrl: job.replyUrl }) })
    return html`
      <section class="card">
        <h2>Request <button class="plain" @click=${copy}>${icon('copy')}Copy as curl</button></h2>
        <dl class="facts">
          <dt>Prompt</dt><dd class="prose">${prompt ?? '–'}</dd>
          <dt>model</dt><dd>${model}</dd>
          ${shown.map(([name, value]) => html`<dt>${name}</dt><dd>${typeof value === 'object' ? JSON.stringify(value) : String(value)}</dd>`)}
          <dt>Job</dt><dd><code>${job.id}</code></dd>
          <dt>Task</dt><dd><code>${job.upstreamTaskId ?? '–'}</code></dd>
          <dt>Submitted by</dt><dd>${job.submittedBy}, through ${job.origin}</dd>
        </dl>
        ${job.problems.length ? html`<ul class="problems">${job.problems.map(({ message }) => html`<li>${message}</li>`)}</ul>` : nothing}
      </section>`
  }
}

/** Everything that happened, in order; progress that came in a row is one line. */
function timeline(job, { events, callbacks, deliveries }, facts) {
  const entries = [
    ...(facts?.tries ?? []).map((attempt) => ({ at: attempt.sentAt, ...ofTry(attempt) })),
    ...events.map((event) => ({ at: event.timestamp, ...ofEvent(event) })),
    ...runs(callbacks).map((run) => ({ at: run[0].at, ...ofCallbacks(run) })),
    ...deliveries.flatMap((delivery) => ofDelivery(delivery)),
  ].sort((one, other) => new Date(one.at) - new Date(other.at))
  const waits = deliveries.filter(({ state }) => state === 'due' || state === 'waiting' || state === 'held')
  return html`
    <section class="card"><h2>What happened</h2>
      <ol class="timeline">
        ${entries.map(({ at, drawn, kind, words, more }) => html`<li class=${kind}>${icon(drawn)}<div><p>${words}</p>${more ?? nothing}</div>${clock(at)}</li>`)}
        ${waits.map((delivery) => html`<li class="next">${icon('hook')}<div><p>${delivery.type} waits for ${delivery.url}</p></div><span>${delivery.dueAt ? expected(delivery.dueAt) : delivery.state}</span></li>`)}
        ${FINAL.has(job.state) ? nothing : html`<li class="next now">${icon('clock')}<div><p>Now: ${progress(job)}</p></div></li>`}
      </ol>
    </section>`
}

/** To the list as it was left, where that is the page before this one. */
function back(event) {
  if (!globalThis.navigation?.canGoBack) return
  const before = navigation.entries()[navigation.currentEntry.index - 1]
  if (!before?.url || !/#\/jobs(\?|$)/.test(before.url)) return
  event.preventDefault()
  history.back()
}

const TRIES = { sending: ': no answer yet', unknown: ': nobody knows whether it was taken', not_created: ': not taken' }

function ofTry({ attempt, account, state, detail, asked }) {
  const more = [detail, asked && `asked about ${counted(asked, 'time')} since`].filter(Boolean).join('; ')
  return {
    drawn: 'upload',
    kind: `try ${state === 'not_created' ? 'bad' : state}`,
    words: `Attempt ${attempt} sent to ${account}${TRIES[state] ?? ''}`,
    more: more ? html`<p class="small">${more}</p>` : nothing,
  }
}

function ofEvent({ type, data: { job } }) {
  const [drawn, words] = EVENTS[type]
  const more = {
    'job.submitted': () => html`<p class="small">As task ${job.upstreamTaskId ? shortId(job.upstreamTaskId) : '–'}</p>`,
    'job.failed': () => html`<p class="small bad">${job.error?.code}: ${job.error?.message}</p>`,
    'job.succeeded': () => html`<p class="small">${counted(job.artifacts.length, 'file')}</p>`,
  }[type]
  return { drawn, kind: `event ${job.state}`, words, more: more?.() }
}

function runs(callbacks) {
  const found = []
  for (const callback of callbacks) {
    const last = found.at(-1)
    if (last && callback.effect === 'progress' && last[0].effect === 'progress') last.push(callback)
    else found.push([callback])
  }
  return found
}

function ofCallbacks(run) {
  const last = run.at(-1)
  const reached = last.progress === null || last.progress === undefined ? '' : ` at ${Math.round(last.progress * 100)} %`
  const words = run.length > 1 ? `${counted(run.length, 'callback')}, the last ${last.status ?? ''}${reached}` : `Callback: ${last.status ?? 'no status'}${reached} (${last.effect})`
  const more = html`<details><summary>${run.length > 1 ? 'The last body' : 'Its body'}, ${size(last.sizeBytes)}</summary><pre tabindex="0">${pretty(last.body ?? last.bodyBase64)}</pre></details>`
  return { drawn: 'hook', kind: 'callback', words, more }
}

function ofDelivery(delivery) {
  return delivery.answers.map((answer) => ({
    at: answer.at,
    drawn: 'send',
    kind: `delivery ${answer.status >= 200 && answer.status < 300 ? 'good' : 'bad'}`,
    words: html`${delivery.type} to <span class="url">${delivery.url ?? delivery.subscription}</span>: ${answer.status ?? answer.kind}`,
    more: html`<p class="small">${answer.detail} in ${answer.tookMs} ms</p>`,
  }))
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2)
  } catch {
    return text
  }
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`

/** The request as a person would send it again from a shell, without the token; `indent` for those who read it. */
export const curl = (job, indent) =>
  [
    `curl -s ${location.origin}/v1/jobs`,
    '-H "Authorization: Bearer $RELAY_TOKEN"',
    '-H "Content-Type: application/json"',
    `-d ${quoted(JSON.stringify(job.request, null, indent))}`,
  ].join(' \\\n  ')
