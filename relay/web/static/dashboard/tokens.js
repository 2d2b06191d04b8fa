/** Tokens: who may do what, made here, shown once, and taken back. */

import { html, nothing } from '../vendor/lit-html.js'
import { call, get, post } from './api.js'
import { ask, showSecret } from './dialog.js'
import { icon, when } from './words.js'

const SCOPES = {
  submit: 'submit jobs, and see those',
  read: 'see all jobs, deliveries and accounts',
  manage: 'subscriptions, tokens, settling and erasing',
}

export function tokensPage(app) {
  let tokens = null

  async function reload() {
    const answer = await app.attempt(() => get('/v1/tokens'))
    if (answer) tokens = answer.data
    app.draw()
  }

  async function add() {
    const said = await ask({
      title: 'New token',
      fields: html`
        <label>Name <input name="name" required maxlength="64" placeholder="shop" /></label>
        <fieldset><legend>It may</legend>${Object.entries(SCOPES).map(([scope, words]) => html`<label class="choice"><input type="checkbox" name=${scope} />${scope}: ${words}</label>`)}</fieldset>
        <label>Jobs a day, at most <input name="maxPerDay" type="number" min="1" placeholder="no limit" /></label>`,
      action: 'Make it',
    })
    if (!said) return
    const scopes = Object.keys(SCOPES).filter((scope) => said[scope])
    const limits = said.maxPerDay ? { maxPerDay: Number(said.maxPerDay) } : {}
    const made = await app.attempt(() => post('/v1/tokens', { name: said.name.trim(), scopes, ...limits }))
    if (made) await showSecret(made.token, `The token ${made.name}`, 'Whoever has it may do what it may. It is shown this once.')
    reload()
  }

  async function revoke({ id, name }) {
    const words = 'It opens nothing from then on, and neither do the sessions and tickets that were made with it. Its jobs go on.'
    if (!(await ask({ title: `Revoke ${name}?`, words, action: 'Revoke', danger: true }))) return
    if (await app.attempt(() => call('DELETE', `/v1/tokens/${id}`).then(() => true))) app.say('Revoked.')
    reload()
  }

  return {
    reload,
    start: reload,
    view: () => html`
      <div class="head"><h1 tabindex="-1">Tokens</h1><button class="primary" @click=${add}>${icon('submit')}New token</button></div>
      ${tokens === null ? html`<p class="quiet">Loading…</p>` : tokens.length ? html`<ol class="list">${tokens.map(row)}</ol>` : html`<div class="empty">${icon('tokens')}<p>There is the admin token alone. Programs should have their own.</p></div>`}`,
  }

  function row(token) {
    return html`
      <li class="card token">
        <div><b>${token.name}</b><p class="meta"><span>${token.scopes.join(', ')}</span>${token.maxPerDay ? html`<span>${token.maxPerDay} a day</span>` : nothing}${token.maxWaiting ? html`<span>${token.maxWaiting} waiting</span>` : nothing}<span>made ${when(token.createdAt)}</span></p></div>
        <button @click=${() => revoke(token)}>Revoke</button>
      </li>`
  }
}
