/** Figures of a span of time: how jobs ended, how long they waited and took, how busy the accounts were. */

import { html, nothing } from '../vendor/lit-html.js'
import { get } from './api.js'
import { slots } from './accounts.js'
import { bars, spans } from './chart.js'
import { bar, counted, duration } from './words.js'

const EVERY_MS = 10_000
const SPANS = { '1d': 'Today and yesterday', '7d': 'Seven days', '30d': 'Thirty days', '365d': 'A year' }

export function statsPage(app) {
  let since = '7d'
  let stats = null
  let accounts = []
  let timer = null

  async function reload() {
    const found = await app.attempt(() => Promise.all([get('/v1/stats', { since }), get('/v1/accounts')]))
    if (found) [stats, { data: accounts }] = found
    app.draw()
  }

  const percent = (rate) => (rate === null ? '–' : `${(rate * 100).toFixed(rate === 1 ? 0 : 1)} %`)
  const tile = (words, value, more) => html`<div class="card tile"><dt>${words}</dt><dd>${value}<small>${more}</small></dd></div>`

  return {
    reload,
    start() {
      reload()
      timer = setInterval(() => document.visibilityState === 'visible' && reload(), EVERY_MS)
    },
    stop: () => clearInterval(timer),
    view() {
      if (!stats) return html`<div class="head"><h1 tabindex="-1">Stats</h1></div><p class="quiet">Loading…</p>`
      const { jobs, waitS, renderS } = stats
      const ended = jobs.succeeded + jobs.failed + jobs.cancelled
      const taken = accounts.reduce((sum, { running }) => sum + running, 0)
      const slots = accounts.reduce((sum, { admits }) => sum + admits, 0)
      return html`
        <div class="head"><h1 tabindex="-1">Stats</h1>
          <select aria-label="Span" @change=${({ target }) => ((since = target.value), reload())}>${Object.entries(SPANS).map(([span, words]) => html`<option value=${span} .selected=${span === since}>${words}</option>`)}</select>
        </div>
        <dl class="tiles">
          ${tile('Succeeded', percent(stats.successRate), `${jobs.succeeded} of ${counted(ended, 'job')} that ended`)}
          ${tile('Wait, median', duration(waitS.p50), `nine of ten below ${duration(waitS.p90)}`)}
          ${tile('Render, median', duration(renderS.p50), `nine of ten below ${duration(renderS.p90)}`)}
          ${tile('Slots in use', `${taken} of ${slots}`, `${jobs.queued} waiting, upstream busy ${counted(stats.busyAnswers, 'time')}`)}
        </dl>
        <section class="card"><h2>How jobs ended</h2>${bars(stats)}</section>
        <div class="columns">
          <section class="card"><h2>Waiting and rendering by model</h2>${spans(stats.models)}</section>
          <section class="card"><h2>Success by model</h2>
            <div class="scroll" tabindex="0" role="region" aria-label="Success by model"><table>
              <thead><tr><th scope="col">Model</th><th scope="col">Well</th><th scope="col">Failed</th><th scope="col">Cancelled</th><th scope="col">Rate</th></tr></thead>
              <tbody>${stats.models.map(({ model, jobs, successRate }) => html`<tr><th scope="row">${model}</th><td>${jobs.succeeded}</td><td>${jobs.failed}</td><td>${jobs.cancelled}</td><td class="rate">${successRate === null ? nothing : bar(successRate, `${model} succeeded`, 'well')}${percent(successRate)}</td></tr>`)}</tbody>
            </table></div>
          </section>
        </div>
        ${stats.accounts.length ? html`<section class="card"><h2>Accounts</h2>
          <div class="scroll" tabindex="0" role="region" aria-label="Accounts"><table>
            <thead><tr><th scope="col">Account</th><th scope="col">Well</th><th scope="col">Failed</th><th scope="col">Busy answers</th><th scope="col">Render, median</th><th scope="col">Now</th></tr></thead>
            <tbody>${stats.accounts.map(({ account, jobs, busyAnswers, renderS, outOfCredits }) => html`<tr><th scope="row">${account}</th><td>${jobs.succeeded}</td><td>${jobs.failed}</td><td>${busyAnswers}</td><td>${duration(renderS.p50)}</td><td>${outOfCredits ? 'no credits' : use(account)}</td></tr>`)}</tbody>
          </table></div></section>` : nothing}`
    },
  }

  function use(email) {
    const account = accounts.find((each) => each.email === email)
    return account ? slots(account) : '–'
  }
}
