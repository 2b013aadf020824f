// A picture is a link to itself, because small ones must be enlarged to be read.
for (const picture of document.querySelectorAll(".bd-article img")) {
  const link = document.createElement("a");
  link.href = picture.src;
  link.title = "Open this picture alone";
  picture.replaceWith(link);
  link.append(picture);
}
