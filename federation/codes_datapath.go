package federation

// dataPathCodes are the diagnoses of the data path: TW-6xxx.
var dataPathCodes = []CodeHelp{}
