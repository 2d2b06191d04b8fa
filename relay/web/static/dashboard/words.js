/** How states, times, sizes and sentences are shown, the same on every page. */

import { html, nothing, svg } from '../vendor/lit-html.js'

export const STATES = {
  queued: 'Queued',
  submitting: 'Submitting',
  in_doubt: 'In doubt',
  running: 'Running',
  succeeded: 'Succeeded',
  failed: 'Failed',
  cancelled: 'Cancelled',
}
export const FINAL = new Set(['succeeded', 'failed', 'cancelled'])

const PATHS = {
  jobs: 'M4 6h16M4 12h16M4 18h10',
  submit: 'M12 5v14M5 12h14',
  accounts: 'M4 20c0-4 3.6-6 8-6s8 2 8 6M12 11a4 4 0 1 0 0-8 4 4 0 0 0 0 8',
  subscriptions: 'M6 9a6 6 0 1 1 12 0c0 5 2 6 2 7H4c0-1 2-2 2-7M10 20h4',
  quarantine: 'M12 3l9 16H3zM12 10v4M12 16.5v.5',
  tokens: 'M8 20a4 4 0 1 0 0-8 4 4 0 0 0 0 8M11 13l9-9M15.5 8.5l3 3',
  stats: 'M5 20V11M12 20V4M19 20v-6',
  back: 'M15 5l-7 7 7 7',
  search: 'M11 18a7 7 0 1 1 0-14 7 7 0 0 1 0 14M16 16l5 5',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  sun: 'M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8M12 2v2M12 20v2M4.9 4.9l1.4 1.4M17.7 17.7l1.4 1.4M2 12h2M20 12h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4',
  out: 'M14 4h6v16h-6M3 12h12M11 8l4 4-4 4',
  check: 'M5 12.5l5 5L20 7',
  cross: 'M6 6l12 12M18 6L6 18',
  clock: 'M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18M12 7v5l3 2',
  send: 'M4 12l16-8-6 16-3-7z',
  hook: 'M12 3v10a4 4 0 1 1-4 4M9 6l3-3 3 3',
  retry: 'M20 11a8 8 0 1 0-2 6M20 4v7h-7',
  question: 'M9 9a3 3 0 1 1 4 2.8c-1 .5-1 1.2-1 2.2M12 17.5v.5',
  upload: 'M12 16V4M7 9l5-5 5 5M4 20h16',
  docs: 'M6 3h9l4 4v14H6zM14 3v5h5M9 13h7M9 17h7',
  film: 'M4 5h16v14H4zM8 5v14M16 5v14M4 9h4M4 15h4M16 9h4M16 15h4',
}

/** A drawing beside words, or with `label` instead of them. */
export const icon = (name, label) =>
  html`<svg class="icon" viewBox="0 0 24 24" role=${label ? 'img' : nothing} aria-label=${label ?? nothing} aria-hidden=${label ? nothing : 'true'}>${svg`<path d=${PATHS[name]} />`}</svg>`

export const pill = (state, words = STATES[state] ?? state) => html`<span class="pill ${state}">${words}</span>`

/** A bar from 0 to 1, named for those who do not see it. */
export const bar = (value, label, kind = '') =>
  html`<div class="bar ${kind}" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(value * 100)}><i .style=${`--value: ${value * 100}%`}></i></div>`

const UNITS = [
  ['d', 86_400],
  ['h', 3_600],
  ['min', 60],
  ['s', 1],
]

/** Seconds in the two largest units that matter. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–'
  if (seconds < 1) return seconds > 0 ? '< 1 s' : '0 s'
  const first = UNITS.findIndex(([, size]) => seconds >= size)
  const [unit, size] = UNITS[first]
  const rest = UNITS[first + 1]
  const second = rest && first < 3 && Math.floor((seconds % size) / rest[1])
  return `${Math.floor(seconds / size)} ${unit}${second ? ` ${second} ${rest[0]}` : ''}`
}

const until = (at) => (new Date(at) - Date.now()) / 1000

/** A time as how long ago it was or how far off it is, the exact one when asked for. */
export function when(at) {
  if (!at) return '–'
  const seconds = until(at)
  const far = Math.abs(seconds)
  const coarse = far < 60 ? Math.floor(far) : far < 3_600 ? Math.floor(far / 60) * 60 : Math.floor(far / 3_600) * 3_600
  const words = far < 5 ? 'just now' : seconds < 0 ? `${duration(coarse)} ago` : `in ${duration(coarse)}`
  return html`<time datetime=${at} title=${new Date(at).toLocaleString()}>${words}</time>`
}

/** The same for a time that was worked out, and may have passed without it. */
export const expected = (at) => (until(at) < 5 ? 'any moment' : when(at))

const SAME_DAY = { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false }
const OTHER_DAY = { day: 'numeric', month: 'short', ...SAME_DAY }

/** A time of the clock, with its day where that is not today. */
export function clock(at) {
  const date = new Date(at)
  const today = date.toDateString() === new Date().toDateString()
  return html`<time datetime=${at} title=${date.toLocaleString()}>${date.toLocaleString([], today ? SAME_DAY : OTHER_DAY)}</time>`
}

/** How long from one time to another, or until now. */
export const between = (from, to) => duration((new Date(to ?? Date.now()) - new Date(from)) / 1000)

export function size(bytes) {
  if (bytes === null || bytes === undefined) return '–'
  const power = Math.min(3, Math.floor(Math.log2(bytes || 1) / 10))
  return `${(bytes / 1024 ** power).toFixed(power && bytes / 1024 ** power < 10 ? 1 : 0)} ${['B', 'KB', 'MB', 'GB'][power]}`
}

const IN_SENTENCES = /(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)|(user:\d+-runwayml:\S+?-task:[0-9a-f-]{36})|([0-9a-f]{8}-[0-9a-f-]{27})/

/** A sentence of the relay with its times as clocks show them and its ids cut short. */
export const sentence = (text) =>
  text.split(IN_SENTENCES).map((part, index) => {
    if (part === undefined) return nothing
    if (index % 4 === 1) return clock(part)
    if (index % 4 >= 2) return shortId(part)
    return part
  })

/** The end of an id, which tells one from the other; the whole when asked for. */
export const shortId = (id) => html`<code title=${id}>…${id.slice(-8)}</code>`

export const counted = (number, noun) => `${number} ${noun}${number === 1 ? '' : 's'}`

const addresses = new Map()
const ADDRESSES_MAX = 2_000

/**
 * An artifact's address at this origin; one that was given before is used on while it is good for another hour, for a
 * video that plays must not begin anew whenever its job is read again.
 */
export function address(url) {
  const here = new URL(url.slice(Math.max(0, url.indexOf('/v1/artifacts/'))), location.origin)
  const known = addresses.get(here.pathname)
  if (known && Number(known.searchParams.get('exp')) * 1000 > Date.now() + 3_600_000) return known.href
  if (addresses.size >= ADDRESSES_MAX) addresses.clear()
  addresses.set(here.pathname, here)
  return here.href
}
