/** The list of jobs, newest first, each as it is at this moment. */

import { html, nothing } from '../vendor/lit-html.js'
import { slots } from './accounts.js'
import { get, post, search } from './api.js'
import { FINAL, STATES, address, bar, between, counted, duration, expected, icon, pill, when } from './words.js'

const PAGE = 30
const TRIES_MAX = 5
const READ_AT_ONCE = 3
const REFRESH_MS = 1_000
const LINE_UP_MS = 300
const PROMPTS_MAX = 1_000

/** Prompts by job, for lists do not carry them; null while one is being read. */
const prompts = new Map()

export function jobsPage(app) {
  // In the address, so that it is still there for whoever comes back from a job, or shows the list to somebody else.
  const given = new URLSearchParams(location.hash.split('?')[1])
  const filter = { state: given.getAll('state').filter((state) => state in STATES), model: given.get('model') ?? '', q: given.get('q') ?? '' }
  let jobs = null
  let next = null
  let counts = {}
  let models = []
  let accounts = []
  let hold = null
  let problem = null
  let refresh = null
  let asked = 0
  let readAt = 0

  const query = () => ({ ...filter, q: filter.q.trim() })

  /** A page of jobs; where the filter is rare, the relay looks through so many at a time and says where it goes on. */
  async function read(limit, cursor) {
    const data = []
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const page = await get('/v1/jobs', { ...query(), limit: limit - data.length, cursor })
      data.push(...page.data)
      cursor = page.next
      if (!cursor || data.length >= limit) break
    }
    return { data, next: cursor }
  }

  async function resume() {
    if (await app.attempt(() => post('/v1/resume'))) app.say('The queue moves again.')
    reload()
  }

  async function reload(limit = Math.max(PAGE, Math.min(jobs?.length ?? 0, 200))) {
    const mine = ++asked
    try {
      const [page, ready, known] = await Promise.all([
        read(limit),
        get('/readyz').catch(() => null),
        app.may('read') ? get('/v1/accounts').catch(() => null) : null,
      ])
      if (mine !== asked) return
      accounts = known?.data ?? accounts
      readAt = Date.now()
      jobs = page.data
      next = page.next
      counts = ready?.jobs ?? counts
      hold = ready?.hold
      problem = null
    } catch (error) {
      problem = error
    }
    app.draw()
    readPrompts()
  }

  /** At once, but not more often than that: places in the queue move with each event. */
  function refreshSoon() {
    refresh ??= setTimeout(() => ((refresh = null), reload()), Math.max(50, readAt + REFRESH_MS - Date.now()))
  }

  async function more() {
    const page = await app.attempt(() => read(PAGE, next))
    if (!page) return
    jobs = [...jobs, ...page.data]
    next = page.next
    app.draw()
    readPrompts()
  }

  function event({ type, data }) {
    const { job } = data
    if (!job || !jobs) return
    const at = jobs.findIndex(({ id }) => id === job.id)
    const { queuePosition, startsAt, eta } = jobs[at] ?? {}
    // An event says nothing of the queue; what was last known of it is better than nothing.
    if (at >= 0) jobs[at] = { ...job, ...(FINAL.has(job.state) ? {} : { queuePosition, startsAt, eta }) }
    if (type !== 'job.progress') refreshSoon()
    app.draw()
  }

  async function readPrompts() {
    if (readPrompts.running) return
    readPrompts.running = true
    const wanted = () => jobs?.find(({ id }) => !prompts.has(id))?.id
    const one = async () => {
      for (let id = wanted(); id; id = wanted()) {
        if (prompts.size >= PROMPTS_MAX) prompts.clear()
        prompts.set(id, null)
        const job = await get(`/v1/jobs/${id}`).catch(() => null)
        prompts.set(id, job?.request?.text_prompt ?? '')
        app.draw()
      }
    }
    await Promise.all(Array.from({ length: READ_AT_ONCE }, one))
    readPrompts.running = false
  }

  function choose(changes) {
    Object.assign(filter, changes)
    const kept = search(query()).toString()
    history.replaceState(null, '', `#/jobs${kept && '?'}${kept}`)
    reload(PAGE)
  }

  const toggle = (state) =>
    choose({ state: filter.state.includes(state) ? filter.state.filter((each) => each !== state) : [...filter.state, state] })

  let typing = null
  const type = ({ target }) => {
    clearTimeout(typing)
    typing = setTimeout(() => choose({ q: target.value }), LINE_UP_MS)
  }

  /** What is rare takes no room while there is none of it. */
  const shows = (state) => (state !== 'submitting' && state !== 'in_doubt') || counts[state] || filter.state.includes(state)

  const filtered = () => filter.state.length || filter.model || filter.q

  return {
    reload,
    event,
    start() {
      reload()
      get('/v1/models').then((answer) => ((models = answer.data), app.draw()), () => {})
    },
    stop() {
      clearTimeout(refresh)
      clearTimeout(typing)
    },
    view: () => html`
      <div class="head">
        <h1 tabindex="-1">Jobs</h1>
        ${app.may('submit') ? html`<a class="button primary" href="#/submit">${icon('submit')}New job</a>` : nothing}
      </div>
      ${hold ? html`<p class="offline" role="status"><span>Submitting is held since ${when(hold.since)}: ${hold.reason}. ${hold.searchedAt ? `The upstream was searched, ${counted(hold.found, 'lost task')} found.` : 'The upstream is being searched for what was lost.'}</span>${app.may('manage') ? html`<button ?disabled=${!hold.searchedAt} @click=${resume}>Let the queue move</button>` : nothing}</p>` : nothing}
      <div class="filters" role="group" aria-label="Filter by state">
        ${Object.entries(STATES).filter(([state]) => shows(state)).map(
          ([state, words]) => html`<button class="chip ${state}" aria-pressed=${filter.state.includes(state)} @click=${() => toggle(state)}><i></i>${words}${FINAL.has(state) ? nothing : html`<b>${counts[state] ?? 0}</b>`}</button>`,
        )}
      </div>
      ${accounts.length ? html`<ul class="strip" aria-label="Accounts">${accounts.map((account) => html`<li><a href="#/accounts">${account.email}</a>${slots(account)}${account.parked ? html`<span class="bad small">parked</span>` : nothing}</li>`)}</ul>` : nothing}
      <div class="tools">
        <label class="search">${icon('search')}<input type="search" placeholder="Words of the prompt" aria-label="Words of the prompt" .defaultValue=${filter.q} @input=${type} /></label>
        <select aria-label="Model" @change=${({ target }) => choose({ model: target.value })}>
          <option value="">All models</option>
          ${models.map(({ name, label }) => html`<option value=${name} .selected=${name === filter.model}>${label}</option>`)}
        </select>
      </div>
      ${problem ? html`<p class="wrong" role="alert">${problem.message}</p>` : nothing}
      ${jobs === null ? html`<p class="quiet">Loading…</p>` : jobs.length ? html`<ol class="job-list" aria-label="Jobs">${jobs.map(row)}</ol>` : empty()}
      ${next ? html`<p class="more"><button @click=${more}>Older jobs</button></p>` : nothing}`,
  }

  function empty() {
    return html`<div class="empty">${icon('film')}<p>${filtered() ? 'No job is like that.' : 'There are no jobs yet.'}</p></div>`
  }
}

const row = (job) => html`
  <li class="job ${job.state}">
    ${thumbnail(job)}
    <div class="what">
      <a href="#/jobs/${job.id}">${prompts.get(job.id) || html`<span class="quiet">${prompts.get(job.id) === null ? '…' : job.id}</span>`}</a>
      <p class="meta"><b>${job.model ?? 'unknown model'}</b>${job.replyRef ? html`<span>${job.replyRef}</span>` : nothing}<span>${job.submittedBy}</span>${job.account ? html`<span>${job.account}</span>` : nothing}</p>
    </div>
    <div class="how">
      ${pill(job.state)}
      ${progress(job)}
    </div>
    <p class="then">${when(job.createdAt)}</p>
  </li>`

/** The first preview of what came, or a place for it. */
export function thumbnail(job) {
  const preview = job.artifacts[0]?.previewUrls?.[0]
  return preview
    ? html`<img class="thumb" src=${address(preview)} alt="" loading="lazy" />`
    : html`<span class="thumb ${job.state}">${icon({ failed: 'cross', cancelled: 'cross', in_doubt: 'question', queued: 'clock' }[job.state] ?? 'film')}</span>`
}

/** One line on how far it is: a bar, a place in the queue, an error, how long it took. */
export function progress(job) {
  switch (job.state) {
    case 'running':
      return html`${bar(job.progress, 'Progress', 'moving')}<span class="small">${Math.round(job.progress * 100)} %${job.eta ? html` · ends ${expected(job.eta)}` : nothing}</span>`
    case 'queued':
      return html`<span class="small">${job.queuePosition ? (job.queuePosition === 1 ? 'next' : `place ${job.queuePosition}`) : 'waiting'}${job.startsAt ? html` · starts ${expected(job.startsAt)}` : nothing}</span>`
    case 'submitting':
      return html`<span class="small">on its way</span>`
    case 'in_doubt':
      return html`<span class="small">nobody knows whether it was taken</span>`
    case 'failed':
      return html`<span class="small bad">${job.error?.message ?? job.error?.code}</span>`
    default:
      return html`<span class="small">took ${between(job.createdAt, job.finishedAt)}${job.artifacts[0]?.durationS ? ` · ${duration(job.artifacts[0].durationS)} of video` : ''}</span>`
  }
}
