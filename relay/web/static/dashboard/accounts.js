/** The upstream's accounts: how many tasks each runs, and why one is left alone. */

import { html, nothing } from '../vendor/lit-html.js'
import { get } from './api.js'
import { counted, expected, pill } from './words.js'

const EVERY_MS = 5_000
const PLACES_MAX = 40
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

/** A block for each slot: taken by us, by others, free, or more than it admits at present. */
export function slots({ slots, admits, running, others }) {
  const places = Math.min(PLACES_MAX, Math.max(slots, running + others, admits))
  const kind = (index) => (index < running ? 'ours' : index < running + others ? 'others' : index < admits ? 'free' : 'shut')
  const label = `${running} of ${admits} slots in use${others ? `, ${others} by others` : ''}`
  return html`<div class="slots" role="img" aria-label=${label}>${Array.from({ length: places }, (_, index) => html`<i class=${kind(index)}></i>`)}</div>`
}

function card(account) {
  const { email, slots: listed, admits, running, others, parked, reason, retryAt } = account
  return html`
    <section class="card account">
      <h2>${email}</h2>
      ${parked ? pill('failed', 'Parked') : running >= admits ? pill('running', 'Full') : pill('succeeded', 'Has room')}
      ${slots(account)}
      <p class="small">${running} of ${counted(admits, 'slot')} in use${listed > admits ? `, the list says ${listed}` : ''}${others ? `, ${counted(others, 'task')} of somebody else` : ''}</p>
      ${parked ? html`<p class="bad small">${REASONS[parked] ?? parked}: ${reason}${retryAt ? html`. Tried again ${expected(retryAt)}` : nothing}</p>` : nothing}
    </section>`
}
