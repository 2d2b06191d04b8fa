// The page's JavaScript example, with the address and the token from the environment.
const model = "gen4.5";
const text_prompt = "A cinematic aerial shot of a coastal city at golden hour";
const duration = 5;
const apiUrl = `${process.env.API}/videos/create`;
const data = {
  method: "POST",
  headers: { Authorization: `Bearer ${process.env.TOKEN}`, "Content-Type": "application/json" },
};
data.body = JSON.stringify({ model, text_prompt, duration });
const response = await fetch(apiUrl, data);
const result = await response.json();
console.log(response.status, result.task.taskId);
