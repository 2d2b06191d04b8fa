/** Bodies that came to a callback address and were no reports on its task. They are shown, and never believed. */

import { html, nothing } from '../vendor/lit-html.js'
import { get } from './api.js'
import { clock, shortId, size } from './words.js'

const PAGE = 50

export function quarantinePage(app) {
  let rows = null
  let next = null

  async function read(cursor) {
    const page = await app.attempt(() => get('/v1/quarantine', { limit: PAGE, cursor }))
    if (!page) return
    rows = cursor ? [...rows, ...page.data] : page.data
    next = page.next
    app.draw()
  }

  return {
    reload: () => read(),
    start: () => read(),
    view: () => html`
      <div class="head"><h1 tabindex="-1">Quarantine</h1></div>
      <p class="lead">What came to a callback address and could not be a report on its task: no JSON, another task's, a stranger's. Nothing of it has changed anything.</p>
      ${rows === null ? html`<p class="quiet">Loading…</p>` : rows.length ? html`<ol class="list">${rows.map(row)}</ol>` : html`<div class="empty"><p>Nothing is here.</p></div>`}
      ${next ? html`<p class="more"><button @click=${() => read(next)}>Older ones</button></p>` : nothing}`,
  }
}

const row = ({ at, job, reason, contentType, sizeBytes, body, bodyBase64 }) => html`
  <li class="card">
    <p><b>${reason}</b></p>
    <p class="meta">${clock(at)}<span>${contentType || 'no type'}</span><span>${size(sizeBytes)}</span>${job ? html`<a href="#/jobs/${job}">job ${shortId(job)}</a>` : nothing}</p>
    <details><summary>What it said</summary><pre tabindex="0">${body ?? bodyBase64}</pre></details>
  </li>`
