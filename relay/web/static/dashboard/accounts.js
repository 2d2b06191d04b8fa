/** The upstream's accounts: how many tasks each runs, and why one is left alone. */

import { html, nothing } from '../vendor/lit-html.js'
import { get } from './api.js'
import { counted, pill, when } from './words.js'

const EVERY_MS = 5_000
const REASONS = { no_credits: 'No credits left', unreachable: 'Cannot be reached', moderated: 'Held by moderation' }

export function accountsPage(app) {
  let accounts = null
  let problem = null
  let timer = null

  async function reload() {
    try {
      accounts = (await get('/v1/accounts')).data
      problem = null
    } catch (error) {
      problem = error
    }
    app.draw()
  }

  return {
    reload,
    event: ({ type }) => type !== 'job.progress' && reload(),
    start() {
      reload()
      timer = setInterval(() => document.visibilityState === 'visible' && reload(), EVERY_MS)
    },
    stop: () => clearInterval(timer),
    view: () => html`
      <div class="head"><h1 tabindex="-1">Accounts</h1></div>
      ${problem ? html`<p class="wrong" role="alert">${problem.message}</p>` : nothing}
      ${accounts === null ? html`<p class="quiet">Loading…</p>` : accounts.length ? html`<div class="cards">${accounts.map(card)}</div>` : html`<div class="empty"><p>The relay knows of no account yet.</p></div>`}`,
  }
}

function card({ email, slots, admits, running, others, parked, reason, retryAt }) {
  const places = Math.max(slots, running + others, admits)
  return html`
    <section class="card account">
      <h2>${email}</h2>
      ${parked ? pill('failed', 'Parked') : running >= admits ? pill('running', 'Full') : pill('succeeded', 'Has room')}
      <div class="slots" role="img" aria-label=${`${running} of ${admits} slots in use${others ? `, ${others} by others` : ''}`}>
        ${Array.from({ length: Math.min(places, 40) }, (_, index) => html`<i class=${index < running ? 'ours' : index < running + others ? 'others' : index < admits ? 'free' : 'shut'}></i>`)}
      </div>
      <p class="small">${running} of ${counted(admits, 'slot')} in use${slots > admits ? `, the list says ${slots}` : ''}${others ? `, ${counted(others, 'task')} of somebody else` : ''}</p>
      ${parked ? html`<p class="bad small">${REASONS[parked] ?? parked}: ${reason}${retryAt ? html`. Tried again ${when(retryAt)}` : nothing}</p>` : nothing}
    </section>`
}
