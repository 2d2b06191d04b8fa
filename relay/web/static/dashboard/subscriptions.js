/** Who is told of events: how well that goes, what is still owed, and everything that can be done about it. */

import { html, nothing } from '../vendor/lit-html.js'
import { call, get, post } from './api.js'
import { ask, showSecret } from './dialog.js'
import { bar, clock, counted, expected, icon, pill, shortId, when } from './words.js'

const EVERY_MS = 5_000
const TYPES = ['job.succeeded', 'job.failed', 'job.cancelled', 'job.queued', 'job.submitted', 'job.progress', 'job.in_doubt']
const PILLS = { active: 'succeeded', paused: 'in_doubt', disabled: 'cancelled' }

const health = (one) => pill(one.failingSince && one.state === 'active' ? 'failed' : PILLS[one.state], one.failingSince && one.state === 'active' ? 'Failing' : { active: 'Active', paused: 'Paused', disabled: 'Disabled' }[one.state])

const SIGNS = 'It signs every webhook. It is shown this once; put it where your program reads it.'

export function subscriptionsPage(app) {
  let all = null
  let timer = null

  async function reload() {
    const answer = await app.attempt(() => get('/v1/subscriptions'))
    if (answer) all = answer.data
    app.draw()
  }

  async function add() {
    const said = await ask({
      title: 'New subscription',
      fields: html`
        <label>Address <input name="url" type="url" required placeholder="https://shop.example.com/webhooks" /></label>
        <label>What it is for <input name="description" maxlength="200" /></label>
        <fieldset><legend>Events (none: the three ends of a job)</legend>${TYPES.map((type) => html`<label class="choice"><input type="checkbox" name=${type} />${type}</label>`)}</fieldset>
        <label>Format <select name="format"><option value="event">event, in an envelope</option><option value="task">task, as the upstream writes it</option></select></label>`,
      action: 'Subscribe',
    })
    if (!said) return
    const { url, description, format } = said
    const made = await app.attempt(() => post('/v1/subscriptions', { url, description, format, types: TYPES.filter((type) => said[type]) }))
    if (!made) return
    await showSecret(made.secret, 'The secret of the new subscription', SIGNS)
    app.go(`subscriptions/${made.id}`)
  }

  return {
    reload,
    start() {
      reload()
      timer = setInterval(() => document.visibilityState === 'visible' && reload(), EVERY_MS)
    },
    stop: () => clearInterval(timer),
    view: () => html`
      <div class="head"><h1 tabindex="-1">Subscriptions</h1><button class="primary" @click=${add}>${icon('submit')}New subscription</button></div>
      ${all === null ? html`<p class="quiet">Loading…</p>` : all.length ? html`<ol class="list">${all.map(row)}</ol>` : html`<div class="empty">${icon('subscriptions')}<p>Nobody is told of anything yet.</p></div>`}`,
  }
}

const row = (one) => html`
  <li class="card subscription">
    <div class="what">
      <a href="#/subscriptions/${one.id}">${one.description || one.url}</a>
      <p class="meta"><span class="url">${one.url}</span><span>${one.format}</span><span>${counted(one.types.length, 'type')}</span></p>
    </div>
    ${health(one)}
    <p class="small">${one.owed ? `${one.owed} owed` : 'nothing owed'}${one.failingSince ? html`<br />failing since ${when(one.failingSince)}` : nothing}</p>
  </li>`

export function subscriptionPage(app, id) {
  let one = null
  let deliveries = []
  let dead = []
  let pinged = null
  let replay = null
  let timer = null
  const path = `/v1/subscriptions/${encodeURIComponent(id)}`

  async function reload() {
    const lists = (state) => (app.may('read') ? get('/v1/deliveries', { subscription: id, state, limit: 20 }).then(({ data }) => data) : [])
    const found = await app.attempt(() => Promise.all([get(path), lists(undefined), lists('dead')]))
    if (found) [one, deliveries, dead] = found
    if (replay && replay.state === 'running') replay = (await app.attempt(() => get(`/v1/replays/${replay.id}`))) ?? replay
    app.draw()
  }

  async function ping() {
    pinged = { waits: true }
    app.draw()
    pinged = (await app.attempt(() => post(`${path}/ping`))) ?? null
    app.draw()
  }

  async function rotate() {
    const said = await ask({
      title: 'A new secret?',
      words: 'Both sign for as long as the old one is kept, so that your program can change in its own time.',
      fields: html`<label>Keep the old one for <select name="keepOldFor"><option value="24h">a day</option><option value="1h">an hour</option><option value="7d">a week</option><option value="0s">not at all</option></select></label>`,
      action: 'Make it',
    })
    const made = said && (await app.attempt(() => post(`${path}/rotate`, said)))
    if (made) await showSecret(made.secret, 'The new secret', SIGNS)
    reload()
  }

  async function enable() {
    const said = await ask({
      title: 'Go on?',
      fields: html`<label>Of what is owed, send <select name="backlog"><option value="all">everything</option><option value="final">only how jobs ended</option><option value="none">nothing</option></select></label>`,
      action: 'Go on',
    })
    if (said && (await app.attempt(() => post(`${path}/enable`, said)))) app.say('Active again.')
    reload()
  }

  async function remove() {
    if (!(await ask({ title: 'Remove this subscription?', words: 'What it is still owed is kept as dead letters.', action: 'Remove', danger: true }))) return
    if ((await app.attempt(() => call('DELETE', path).then(() => true))) === true) app.go('subscriptions')
  }

  async function sendAgain() {
    const filter = { state: ['dead'], subscription: [id] }
    const preview = await app.attempt(() => post('/v1/deliveries/replay', { filter }))
    if (!preview) return
    const words = preview.count ? `${counted(preview.count, 'delivery').replace('deliverys', 'deliveries')} would go out again, with the same ids.` : 'There is nothing that could be sent again.'
    const sample = html`<ul class="sample">${preview.sample.map(({ type, event, createdAt, job }) => html`<li><b>${type}</b> ${clock(createdAt)} <code>${event}</code> ${job ? html`job ${shortId(job)}` : nothing}</li>`)}</ul>`
    if (!(await ask({ title: 'Send dead letters again', words, fields: sample, action: preview.count ? 'Send' : 'OK' })) || !preview.count) return
    replay = (await app.attempt(() => post('/v1/deliveries/replay', { filter, dryRun: false }))) ?? null
    reload()
  }

  const again = (delivery) => async () => {
    if (await app.attempt(() => post(`/v1/deliveries/${encodeURIComponent(delivery.id)}/retry`))) app.say('Sent again.')
    reload()
  }

  return {
    reload,
    title: () => one?.description || 'Subscription',
    start() {
      reload()
      timer = setInterval(() => document.visibilityState === 'visible' && reload(), EVERY_MS)
    },
    stop: () => clearInterval(timer),
    event: ({ type }) => type !== 'job.progress' && reload(),
    view() {
      if (!one) return html`<a class="back" href="#/subscriptions">${icon('back')}Subscriptions</a><h1 tabindex="-1">Subscription</h1><p class="quiet">Loading…</p>`
      return html`
        <a class="back" href="#/subscriptions">${icon('back')}Subscriptions</a>
        <div class="head"><h1 tabindex="-1">${one.description || one.url}</h1></div>
        <p class="meta wide">${health(one)}<span class="url">${one.url}</span>${one.reason ? html`<span class="bad">${one.reason}</span>` : nothing}</p>
        <div class="actions">
          <button @click=${ping} ?disabled=${pinged?.waits}>${icon('send')}Ping</button>
          <button @click=${rotate}>${icon('retry')}New secret</button>
          ${one.state === 'active' ? nothing : html`<button class="primary" @click=${enable}>${icon('check')}Go on</button>`}
          <button @click=${remove}>${icon('cross')}Remove</button>
        </div>
        ${pinged && !pinged.waits ? html`<p class="answer ${pinged.arrived ? 'good' : 'bad'}" role="status">${icon(pinged.arrived ? 'check' : 'cross')}${pinged.detail} in ${pinged.tookMs} ms</p>` : nothing}
        <div class="columns">
          <div>
            <section class="card"><h2>As it is</h2>
              <dl class="facts">
                <dt>Events</dt><dd>${one.types.join(', ')}</dd>
                <dt>Models</dt><dd>${one.models.join(', ') || 'all'}</dd>
                ${one.replyRef ? html`<dt>Reference</dt><dd>${one.replyRef}</dd>` : nothing}
                <dt>Format</dt><dd>${one.format}</dd>
                <dt>Owed</dt><dd>${one.owed}</dd>
                ${one.failingSince ? html`<dt>Failing since</dt><dd>${when(one.failingSince)}, ${counted(one.failures, 'time')} in a row</dd>` : nothing}
                ${one.triedAgainAt ? html`<dt>Tried again</dt><dd>${expected(one.triedAgainAt)}</dd>` : nothing}
                <dt>Made</dt><dd>${when(one.createdAt)}</dd>
              </dl>
            </section>
            <section class="card"><h2>Dead letters ${dead.length ? html`<button @click=${sendAgain}>${icon('retry')}Send again…</button>` : nothing}</h2>
              ${replay ? html`<p class="small" role="status">Replay: ${replay.requeued} of ${replay.total} are owed anew${replay.skipped ? `, ${replay.skipped} could not be` : ''}</p>${bar(replay.total ? (replay.requeued + replay.skipped) / replay.total : 1, 'Replay')}` : nothing}
              ${dead.length ? html`<ol class="deliveries">${dead.map(letter)}</ol>` : html`<p class="quiet">None.</p>`}
            </section>
          </div>
          <section class="card"><h2>Deliveries</h2>
            ${app.may('read') ? nothing : html`<p class="quiet">To see them, a token needs the scope read.</p>`}
            ${deliveries.length ? html`<ol class="deliveries">${deliveries.map(letter)}</ol>` : html`<p class="quiet">None yet.</p>`}
          </section>
        </div>`
    },
  }

  function letter(delivery) {
    const answer = delivery.answers.at(-1)
    const kind = { delivered: 'succeeded', dead: 'failed', due: 'queued', sending: 'running', superseded: 'cancelled' }[delivery.state] ?? 'in_doubt'
    return html`<li>
      ${pill(kind, delivery.state)}
      <div><p>${delivery.type} ${delivery.job ? html`<a href="#/jobs/${delivery.job}">${shortId(delivery.job)}</a>` : nothing}</p><p class="small">${answer ? answer.detail : (delivery.reason ?? 'not tried yet')}${delivery.dueAt ? html`, next ${expected(delivery.dueAt)}` : nothing}</p></div>
      ${clock(delivery.finishedAt ?? delivery.createdAt)}
      ${delivery.state === 'dead' ? html`<button class="plain" @click=${again(delivery)}>${icon('retry', `Send ${delivery.event} again`)}</button>` : nothing}
    </li>`
  }
}
