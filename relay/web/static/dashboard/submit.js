/** A form for a new job, made from what the catalogue says of each model; the relay itself judges it as it is typed. */

import { html, nothing } from '../vendor/lit-html.js'
import { call, get, newKey, post, search } from './api.js'
import { curl } from './job.js'
import { duration, icon } from './words.js'

const JUDGE_MS = 350
const ACCEPTED = 'image/png,image/jpeg,image/webp,video/mp4'
const APART = new Set(['model', 'text_prompt', 'replyUrl', 'replyRef', 'maxJobs'])

const WORDS = {
  duration: 'Seconds',
  aspect_ratio: 'Format',
  resolution: 'Resolution',
  audio: 'With sound',
  seed: 'Seed',
  exploreMode: 'Explore mode',
  email: 'Account',
  characterOrientation: 'Character as in the',
  startFrameAssetId: 'First frame',
  endFrameAssetId: 'Last frame',
}

export function submitPage(app) {
  let models = null
  let model = null
  let values = {}
  let problems = []
  let touched = new Set()
  let judged = false
  let accounts = []
  let sending = false
  let judging = null
  const uploads = {}

  function choose(name) {
    model = models.find((each) => each.name === name)
    // What the new model does not know goes; what it knows stays as it was.
    values = Object.fromEntries(Object.entries(values).filter(([field]) => model.fields.includes(field) || field === 'deadline' || field === 'priority'))
    if (!offers(model.duration.offered, values.duration)) delete values.duration
    if (values.duration === undefined && model.duration.offered) values.duration = firstOf(model.duration.offered)
    judge()
  }

  function set(field, value) {
    if (value === '' || value === undefined || value === null) delete values[field]
    else values[field] = value
    touched.add(field)
    judge()
  }

  const request = () => ({ model: model.name, ...values })

  function judge() {
    judged = false
    app.draw()
    clearTimeout(judging)
    judging = setTimeout(async () => {
      try {
        problems = (await post('/v1/jobs?dry_run=true', request())).problems
      } catch (problem) {
        problems = problem.problems
      }
      judged = true
      app.draw()
    }, JUDGE_MS)
  }

  async function submit(event) {
    event.preventDefault()
    if (sending) return
    sending = true
    app.draw()
    try {
      const job = await post('/v1/jobs', request(), { 'Idempotency-Key': newKey() })
      app.say('Queued.')
      app.go(`jobs/${job.id}`)
    } catch (problem) {
      problems = problem.problems
      touched = new Set([...model.fields, ...problems.map(({ field }) => field)])
      app.say(problem.message, 'bad')
    }
    sending = false
    app.draw()
  }

  async function upload(field, file) {
    if (!file) return
    const type = file.type || 'application/octet-stream'
    uploads[field] = { name: file.name, state: 'sending', picture: type.startsWith('image/') ? URL.createObjectURL(file) : null }
    app.draw()
    try {
      const query = search({ name: file.name, email: values.email })
      const { assetId } = await call('POST', `/v1/runwayml/assets/?${query}`, file, { type })
      uploads[field].state = 'done'
      set(field, assetId)
    } catch (problem) {
      uploads[field].state = 'failed'
      uploads[field].words = problem.message
      app.draw()
    }
  }

  function forget(field) {
    if (uploads[field]?.picture) URL.revokeObjectURL(uploads[field].picture)
    delete uploads[field]
    set(field, '')
  }

  const wrongs = (field) => problems.filter((problem) => problem.field === field && touched.has(field))

  return {
    async start() {
      const answer = await app.attempt(() => get('/v1/models'))
      if (!answer) return
      models = answer.data
      if (app.may('read')) get('/v1/accounts').then(({ data }) => ((accounts = data), app.draw()), () => {})
      choose(models.find(({ name }) => name === 'gen4.5') ? 'gen4.5' : models[0].name)
    },
    stop() {
      clearTimeout(judging)
      for (const { picture } of Object.values(uploads)) if (picture) URL.revokeObjectURL(picture)
    },
    view: () => html`
      <div class="head"><h1 tabindex="-1">New job</h1></div>
      ${model ? html`<div class="columns apart">${form()}${verdict()}</div>` : html`<p class="quiet">Loading…</p>`}`,
  }

  /** What the relay thinks of it, and the same for a program. */
  function verdict() {
    const good = judged && !problems.length
    const copy = async () => {
      await app.attempt(() => navigator.clipboard.writeText(curl({ request: request() })))
      app.say('Copied.')
    }
    return html`
      <aside class="card verdict" aria-label="What the relay thinks of it">
        <p class="answer ${good ? 'good' : ''}" role="status">${icon(good ? 'check' : 'clock')}${good ? 'The relay takes it.' : judged ? `${problems.length === 1 ? 'One thing is' : `${problems.length} things are`} missing or wrong.` : 'The relay looks at it…'}</p>
        ${problems.length ? html`<ul class="problems">${problems.map(({ field, message }) => html`<li><b>${field}</b> ${message}</li>`)}</ul>` : nothing}
        <h2>The same from a shell <button type="button" class="plain" @click=${copy}>${icon('copy')}Copy</button></h2>
        <pre tabindex="0">${curl({ request: request() }, 2)}</pre>
      </aside>`
  }

  function account() {
    return html`<label>Account<select name="email" @change=${({ target }) => set('email', target.value)}>
      <option value="" .selected=${!values.email}>whichever has room</option>
      ${accounts.map(({ email }) => html`<option value=${email} .selected=${values.email === email}>${email}</option>`)}</select>${said('email')}</label>`
  }

  function form() {
    const families = Map.groupBy ? Map.groupBy(models, ({ family }) => family) : new Map([['Models', models]])
    const assets = model.fields.filter(isAsset)
    const plain = model.fields.filter((field) => !APART.has(field) && !isAsset(field))
    return html`
      <form class="card form" @submit=${submit} novalidate>
        <label>Model
          <select name="model" @change=${({ target }) => choose(target.value)}>
            ${[...families].map(([family, members]) => html`<optgroup label=${family}>${members.map(({ name, label }) => html`<option value=${name} .selected=${name === model.name}>${label}</option>`)}</optgroup>`)}
          </select>
          ${model.typicalS?.total ? html`<span class="hint">Takes about ${duration(model.typicalS.total.to)}</span>` : nothing}
        </label>
        ${model.prompt.need === 'refused' ? html`<p class="hint">This model takes no prompt.</p>` : prompt()}
        ${assets.length ? html`<fieldset class="assets"><legend>Pictures and videos</legend>${shownSlots(assets).map(slot)}</fieldset>` : nothing}
        <div class="grid">${plain.map(control)}</div>
        <details class="further"><summary>For programs: reference, reply address, priority, deadline</summary>
          <div class="grid">
            ${text('replyRef', 'Your reference')} ${text('replyUrl', 'Reply address', 'url')}
            ${number('priority', 'Priority, −10 to 10')} ${number('deadline', 'Start within, seconds')}
          </div>
        </details>
        <div class="actions"><button class="primary" ?disabled=${sending}>${icon('send')}${sending ? 'Sending…' : 'Submit'}</button></div>
      </form>`
  }

  function prompt() {
    const { maxLength, need } = model.prompt
    const length = [...(values.text_prompt ?? '')].length
    return html`<label class=${wrongs('text_prompt').length ? 'is-wrong' : ''}>Prompt
      <textarea name="text_prompt" rows="4" ?required=${need === 'required'} .value=${values.text_prompt ?? ''} @input=${({ target }) => set('text_prompt', target.value)} placeholder="A cinematic aerial shot of a coastal city at golden hour"></textarea>
      <span class="hint ${length > maxLength ? 'bad' : ''}">${length} of ${maxLength} characters</span>${said('text_prompt')}</label>`
  }

  function control(field) {
    if (field === 'duration') return model.duration.offered ? offered(field, model.duration.offered) : nothing
    if (field === 'aspect_ratio') return offered(field, ratios())
    if (field === 'resolution') return model.resolution.offered.length ? offered(field, model.resolution.offered, model.resolution.default) : nothing
    if (field === 'characterOrientation') return offered(field, model.characterOrientation.offered, model.characterOrientation.default)
    if (field === 'seed') return number(field, 'Seed')
    if (field === 'audio') return model.audio === 'switch' ? flag(field) : nothing
    if (field === 'exploreMode') return flag(field)
    if (field === 'email' && accounts.length) return account()
    return text(field, WORDS[field] ?? field)
  }

  function ratios() {
    return model.fields.some((field) => isAsset(field) && values[field]) ? model.aspectRatio.imageToVideo : model.aspectRatio.textToVideo
  }

  /** A few values to choose from, or a range. */
  function offered(field, from, byDefault) {
    const words = WORDS[field] ?? field
    if (!Array.isArray(from))
      return html`<label>${words}<span class="range"><input type="range" name=${field} min=${from.from} max=${from.to} .value=${String(values[field] ?? from.from)} @input=${({ target }) => set(field, Number(target.value))} /><output>${values[field] ?? from.from}</output></span>${said(field)}</label>`
    if (!from.length) return nothing
    const of = (text) => from.find((value) => String(value) === text)
    return html`<label class=${wrongs(field).length ? 'is-wrong' : ''}>${words}<select name=${field} @change=${({ target }) => set(field, of(target.value))}>
      ${field === 'duration' ? nothing : html`<option value="" .selected=${values[field] === undefined}>${byDefault ? `${byDefault} (as it is)` : 'as the model likes'}</option>`}
      ${from.map((value) => html`<option value=${value} .selected=${values[field] === value}>${value}</option>`)}</select>${said(field)}</label>`
  }

  function flag(field) {
    return html`<label class="switch"><input type="checkbox" name=${field} .checked=${Boolean(values[field])} @change=${({ target }) => set(field, target.checked || '')} />${WORDS[field]}${said(field)}</label>`
  }

  function text(field, words, type = 'text') {
    return html`<label class=${wrongs(field).length ? 'is-wrong' : ''}>${words}<input type=${type} name=${field} .value=${values[field] ?? ''} @input=${({ target }) => set(field, target.value.trim())} />${said(field)}</label>`
  }

  function number(field, words) {
    return html`<label class=${wrongs(field).length ? 'is-wrong' : ''}>${words}<input type="number" name=${field} .value=${String(values[field] ?? '')} @input=${({ target }) => set(field, target.value === '' ? '' : Number(target.value))} />${said(field)}</label>`
  }

  function said(field) {
    return wrongs(field).map(({ message }) => html`<span class="bad small">${message}</span>`)
  }

  /** Slots that are filled, and the next one of each kind. */
  function shownSlots(assets) {
    const kinds = new Set()
    return assets.filter((field) => {
      if (values[field] || uploads[field]) return true
      const kind = field.replace(/\d+$/, '')
      return !kinds.has(kind) && kinds.add(kind)
    })
  }

  function slot(field) {
    const given = uploads[field]
    return html`
      <div class="slot ${given?.state ?? ''} ${wrongs(field).length ? 'is-wrong' : ''}">
        ${given?.picture ? html`<img src=${given.picture} alt="" />` : html`<span class="thumb">${icon('upload')}</span>`}
        <label>${slotWords(field)}<input type="file" accept=${ACCEPTED} @change=${({ target }) => upload(field, target.files[0])} /></label>
        ${given ? html`<p class="small">${given.name}${{ sending: ': on its way…', failed: `: ${given.words}`, done: '' }[given.state]}</p><button type="button" class="plain" @click=${() => forget(field)}>${icon('cross', `Remove ${given.name}`)}</button>` : nothing}
        ${said(field)}
      </div>`
  }

  function slotWords(field) {
    if (field === model.startFrame) return 'First frame'
    if (field === model.endFrame) return 'Last frame'
    return WORDS[field] ?? (/^video/.test(field) ? 'Video' : 'Picture') + (field.match(/\d+$/)?.[0] ? ` ${field.match(/\d+$/)[0]}` : '')
  }
}

const isAsset = (field) => /AssetId\d*$/.test(field)
const firstOf = (from) => (Array.isArray(from) ? from[0] : Math.max(from.from, Math.min(5, from.to)))
const offers = (from, value) => Boolean(from) && (Array.isArray(from) ? from.includes(value) : value >= from.from && value <= from.to)
