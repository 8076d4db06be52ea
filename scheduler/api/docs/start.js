// No validator: it would send the document's address to a server elsewhere.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null });
