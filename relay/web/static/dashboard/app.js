/** The dashboard: who is here, which page is shown, and the one stream of events that all pages (and tabs) share. */

import { follow } from '../relay.js'
import { html, nothing, render } from '../vendor/lit-html.js'
import { accountsPage } from './accounts.js'
import { call, get, onSignedOut, post } from './api.js'
import { jobPage } from './job.js'
import { jobsPage } from './jobs.js'
import { quarantinePage } from './quarantine.js'
import { statsPage } from './stats.js'
import { submitPage } from './submit.js'
import { subscriptionPage, subscriptionsPage } from './subscriptions.js'
import { tokensPage } from './tokens.js'
import { icon } from './words.js'

const PAGES = {
  jobs: { words: 'Jobs', make: (app, id) => (id ? jobPage(app, id) : jobsPage(app)), scopes: ['read', 'submit'] },
  submit: { words: 'New job', make: submitPage, scopes: ['submit'] },
  accounts: { words: 'Accounts', make: accountsPage, scopes: ['read'] },
  subscriptions: {
    words: 'Subscriptions',
    make: (app, id) => (id ? subscriptionPage(app, id) : subscriptionsPage(app)),
    scopes: ['manage'],
  },
  quarantine: { words: 'Quarantine', make: quarantinePage, scopes: ['manage'] },
  tokens: { words: 'Tokens', make: tokensPage, scopes: ['manage'] },
  stats: { words: 'Stats', make: statsPage, scopes: ['read'] },
}
const AGO_MS = 1_000
const FRAME_MS = 16
const root = document.getElementById('app')

let session = null
let page = null
let following = null
let live = 'connecting'
let drawing = false
let entered = false
let notice = null
let wrong = null

const app = {
  /** Whether whoever has signed in has one of these scopes. */
  may: (...scopes) => scopes.some((scope) => session?.scopes.includes(scope)),
  draw() {
    if (drawing) return
    drawing = true
    setTimeout(() => {
      drawing = false
      draw()
    }, FRAME_MS)
  },
  /** Say something in passing. */
  say(words, kind = 'good') {
    const said = (notice = { words, kind })
    setTimeout(() => notice === said && ((notice = null), app.draw()), kind === 'bad' ? 10_000 : 4_000)
    app.draw()
  },
  /** Do what somebody asked for, and say what became of it where it did not go well. */
  async attempt(doing) {
    try {
      return await doing()
    } catch (problem) {
      if (problem.status !== 401) app.say(problem.message, 'bad')
      return undefined
    }
  },
  go: (path) => (location.hash = `#/${path}`),
}

/* Pages */

function route() {
  const [name, id] = location.hash.replace(/^#\/?/, '').split('?')[0].split('/').map(decodeURIComponent)
  const known = PAGES[name] && app.may(...PAGES[name].scopes) ? name : first()
  page?.stop?.()
  page = { name: known, ...PAGES[known].make(app, known === name ? id : undefined) }
  page.start?.()
  entered = true
  scrollTo(0, 0)
  app.draw()
}

const first = () => Object.keys(PAGES).find((name) => app.may(...PAGES[name].scopes)) ?? 'jobs'

/* The stream */

function connect() {
  following?.close()
  // Tabs share a stream by its address: what follows the sign never reaches the relay, and keeps two sessions apart.
  following = follow(`/v1/events#${encodeURIComponent(session.name)}-${session.expiresAt}`, {
    event(event) {
      const { job, subject, reason } = event.data
      if (!job) app.say([event.type, subject, reason].filter(Boolean).join(': '), 'bad')
      if (document.visibilityState === 'visible') page?.event?.(event)
    },
    open: () => page?.reload?.(),
    gap: () => page?.reload?.(),
    state(state) {
      live = state.name
      app.draw()
    },
    end({ reason }) {
      live = 'ended'
      if (reason === 'unauthorized') signedOut()
      app.draw()
    },
  })
}

/* Signing in and out */

async function begin() {
  wrong = null
  try {
    session = await get('/session')
  } catch (problem) {
    session = null
    if (problem.status !== 401) {
      wrong = problem.message
      setTimeout(begin, 3_000)
    }
    return app.draw()
  }
  connect()
  route()
  entered = false // a page that is loaded begins at its top
}

async function signIn(event) {
  event.preventDefault()
  const form = event.target
  try {
    session = await post('/session', { token: form.elements.token.value })
  } catch (problem) {
    wrong = problem.status === 401 ? 'The relay does not know this token.' : problem.message
    app.draw()
    return form.elements.token.select()
  }
  wrong = null
  tabs.postMessage('session')
  connect()
  route()
}

function signedOut() {
  following?.close()
  page?.stop?.()
  session = page = following = null
  app.draw()
}

async function signOut() {
  await app.attempt(() => call('DELETE', '/session'))
  tabs.postMessage('session')
  signedOut()
}

/* The cookie is that of all tabs: whoever signs in or out in one of them does so in every other. */

const tabs = new BroadcastChannel('relay-dashboard')
tabs.onmessage = () => {
  signedOut()
  begin()
}

/* What is drawn */

function draw() {
  document.title = page ? `${page.title?.() ?? PAGES[page.name].words} · Relay` : 'Relay'
  render(session ? frame() : door(), root)
  // Whoever comes to a page hears its name, also when what it loads takes the place of what was focused.
  if (entered && session && !root.querySelector('main').contains(document.activeElement)) root.querySelector('h1')?.focus({ preventScroll: true })
}

const mark = () => html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="9" /><path d="M6 21c0-8 5-11 10-11h1V6l9 7-9 7v-4h-1c-4 0-7 1-10 5z" /></svg>`

const door = () => html`
  <main class="alone">
    <form class="card door" @submit=${signIn}>
      ${mark()}
      <h1 tabindex="-1">Relay</h1>
      <p class="quiet">Sign in with a token of this relay.</p>
      <label>Token <input name="token" type="password" autocomplete="current-password" required autofocus spellcheck="false" /></label>
      ${wrong && html`<p class="wrong" role="alert">${wrong}</p>`}
      <button class="primary">Sign in</button>
      <p class="fine">Make one with <code>relay token create</code>, or use the admin token.</p>
    </form>
  </main>`

const frame = () => html`
  <a class="skip" href="#main" @click=${skip}>Skip to the page</a>
  <header class="side">
    <a class="brand" href="#/jobs">${mark()}<b>Relay</b></a>
    <nav aria-label="Pages">
      ${Object.entries(PAGES)
        .filter(([, { scopes }]) => app.may(...scopes))
        .map(
          ([name, { words }]) =>
            html`<a href="#/${name}" aria-current=${page?.name === name ? 'page' : nothing}>${icon(name)}<span>${words}</span></a>`,
        )}
    </nav>
    <div class="foot">
      ${connection()}
      <div class="who">
        <span class="name" title=${`Scopes: ${session.scopes.join(', ')}`}>${session.name}</span>
        <a class="plain" href="/docs" target="_blank" rel="noopener">${icon('docs', 'API documentation')}</a>
        <button class="plain" @click=${turnLights}>${icon('sun', 'Light or dark')}</button>
        <button class="plain" @click=${signOut}>${icon('out', 'Sign out')}</button>
      </div>
    </div>
  </header>
  <main id="main" tabindex="-1" class=${page?.name ?? ''}>
    ${away() ? html`<p class="offline" role="alert">The relay cannot be reached. What you see may be old; it goes on by itself. <button @click=${() => following?.retry()}>Try now</button></p>` : nothing}
    ${page?.view()}
  </main>
  <div class="toast ${notice?.kind ?? ''}" role="status">${notice?.words ?? nothing}</div>`

const away = () => live === 'waiting' || live === 'ended'

function connection() {
  const words = { open: 'Live', connecting: 'Connecting…', waiting: 'Reconnecting…', ended: 'Not live' }[live]
  return html`<p class="live ${live}"><i></i>${words}</p>`
}

function skip(event) {
  event.preventDefault()
  root.querySelector('main').focus()
}

/* Light and dark: as the system has it, until somebody says otherwise. */

function turnLights() {
  const dark = getComputedStyle(document.documentElement).colorScheme === 'dark'
    || (!document.documentElement.dataset.theme && matchMedia('(prefers-color-scheme: dark)').matches)
  const theme = dark ? 'light' : 'dark'
  document.documentElement.dataset.theme = theme
  localStorage.setItem('theme', theme)
}

const kept = localStorage.getItem('theme')
if (kept) document.documentElement.dataset.theme = kept

onSignedOut(signedOut)
root.replaceChildren()
for (const touch of ['keydown', 'pointerdown']) addEventListener(touch, () => (entered = false), true)
addEventListener('hashchange', () => session && route())
// A tab that nobody looks at asks nothing; it reads everything anew when somebody does.
addEventListener('visibilitychange', () => document.visibilityState === 'visible' && page?.reload?.())
setInterval(() => session && document.visibilityState === 'visible' && app.draw(), AGO_MS)
begin()
